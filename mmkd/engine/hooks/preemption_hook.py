import os
import signal
import sys
import threading

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook

from mmkd.registry import HOOKS
from mmkd.utils.errors import ConfigError

from .safe_checkpoint_hook import remember, remove_preempted, told_on_failure


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a warning signal, save a full checkpoint after the current iteration and exit; `--resume` goes on from there.

    Slurm sends SIGTERM before it kills, or the signal of `--signal=USR1@90`. All ranks agree on the iteration, whichever of them
    got the signal. Needs `ResumableTrainLoop` to go on in the middle of an epoch. The checkpoint of an earlier
    preemption is removed after the new one is whole.

    Args:
        signals (list[str]): Default: SIGTERM and SIGUSR1.
        exit_code (int): Exit status, for the job script to requeue on. Default: 99.
        interval (int): Iterations between the ranks' agreements in a distributed run (each waits for the device). Default: 5.
    """

    priority = 'LOWEST'  # after every hook that belongs to the iteration

    def __init__(self, signals=('SIGTERM', 'SIGUSR1'), exit_code=99, interval=5):
        for name in signals:
            if not hasattr(signal, name):
                raise ConfigError(f'PreemptionHook.signals: no signal {name!r}')
        if interval < 1 or not 1 <= exit_code <= 255:
            raise ConfigError(
                f'PreemptionHook: expected interval >= 1 and exit_code in 1..255, got {interval}, {exit_code}'
            )
        self.signals, self.exit_code, self.interval = list(signals), exit_code, interval
        self.received = None

    def _note(self, number, frame):
        self.received = signal.Signals(number).name

    def before_train(self, runner):
        if threading.current_thread() is threading.main_thread():
            self.previous = {
                name: signal.signal(getattr(signal, name), self._note) for name in self.signals
            }

    def after_train(self, runner):
        for name, handler in getattr(self, 'previous', {}).items():
            signal.signal(getattr(signal, name), handler)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self._all_agree(runner) or not runner.optim_wrapper.should_update():
            return  # in the middle of accumulated gradients there is no state to save
        name = f'preempted_iter_{runner.iter + 1}.pth'
        with told_on_failure(runner):
            runner.save_checkpoint(
                runner.work_dir, name, by_epoch=False, backend_args=dict(backend='mmkd_atomic')
            )
            if is_main_process():
                remember(runner.work_dir, os.path.join(runner.work_dir, name))
        if is_main_process():
            remove_preempted(runner.work_dir, newest=name)
        runner.logger.warning(
            f'{self.received or "a signal on another rank"}: saved {name} after iteration {runner.iter + 1}; '
            f'exit status {self.exit_code}, go on with --resume'
        )
        sys.exit(self.exit_code)

    def _all_agree(self, runner):
        if get_world_size() == 1:
            return self.received is not None
        if not self.every_n_train_iters(runner, self.interval):
            return False
        flag = torch.tensor(
            float(self.received is not None), device=next(runner.model.parameters()).device
        )
        all_reduce(flag, 'max')
        return bool(flag)
