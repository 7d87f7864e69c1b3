import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from mmkd.registry import HOOKS
from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError

from .safe_checkpoint_hook import remember, remove_preempted, told_on_failure


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a warning signal, save a full checkpoint after the current iteration and exit.

    `--resume` goes on from there. Slurm sends SIGTERM before it kills, or the signal of
    `--signal=USR1@90`. All ranks agree on the iteration, whichever of them got the signal, and
    leave together after the checkpoint is written. Needs `ResumableTrainLoop` to go on in the
    middle of an epoch. The checkpoint of an earlier preemption is removed after the new one is
    whole.

    Args:
        signals: Default: SIGTERM and SIGUSR1.
        exit_code: Exit status, for the job script to requeue on. Default: 99.
        interval: Iterations between the ranks' agreements in a distributed run (each waits for the
            device). Default: 5.

    Raises:
        ConfigError: For a signal that the system does not have, or numbers out of range.
    """

    priority = 'LOWEST'  # after every hook that belongs to the iteration

    def __init__(
        self,
        signals: Sequence[str] = ('SIGTERM', 'SIGUSR1'),
        exit_code: int = 99,
        interval: int = 5,
    ) -> None:
        for name in signals:
            if not hasattr(signal, name):
                raise ConfigError(f'PreemptionHook.signals: no signal {name!r}')
        check_integer(interval, 'PreemptionHook.interval')
        check_integer(exit_code, 'PreemptionHook.exit_code', 1, 255)
        self.signals, self.exit_code, self.interval = list(signals), exit_code, interval
        self.received: str | None = None
        self.agreed = False
        self.previous: dict[str, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def before_run(self, runner: Runner) -> None:
        """Listen from now on, if it trains: hooks may take long before the first iteration."""
        trains = isinstance(runner._train_loop, BaseLoop)
        if trains and threading.current_thread() is threading.main_thread() and not self.previous:
            self.previous = {
                name: signal.signal(getattr(signal, name), self._note) for name in self.signals
            }

    def after_run(self, runner: Runner) -> None:
        """Stop listening."""
        for name, handler in self.previous.items():
            signal.signal(getattr(signal, name), handler)
        self.previous = {}

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Save and leave if a signal has come."""
        self._agree(self.every_n_train_iters(runner, self.interval))
        # In the middle of accumulated gradients the next steps are awaited.
        if self.agreed and runner.optim_wrapper.should_update():
            self._leave(runner, runner.iter + 1)

    def after_pretrain_iter(self, runner: Runner, iteration: int) -> None:
        """Save and leave if a signal has come while a hook trains before the first iteration."""
        self._agree(iteration % self.interval == 0)
        if self.agreed:
            self._leave(runner, 0)

    def _agree(self, due: bool) -> None:
        if get_world_size() == 1:
            self.agreed = self.received is not None
        elif due and not self.agreed:
            flag = torch.tensor(float(self.received is not None))
            all_reduce(flag, 'max')
            self.agreed = bool(flag)

    def _leave(self, runner: Runner, iteration: int) -> None:
        name = f'preempted_iter_{iteration}.pth'
        runner.call_hook('before_saving')
        with told_on_failure(runner):
            runner.save_checkpoint(
                runner.work_dir,
                name,
                meta=dict(epoch=runner.epoch, iter=iteration),
                by_epoch=False,
                backend_args=dict(backend='mmkd_atomic'),
            )
            if is_main_process():
                remember(runner.work_dir, os.path.join(runner.work_dir, name))
        if is_main_process():
            remove_preempted(runner.work_dir, newest=name)
        runner.logger.warning(
            f'{self.received or "a signal on another rank"}: saved {name} after iteration '
            f'{iteration}; exit status {self.exit_code}, go on with --resume'
        )
        barrier()  # the launcher stops all ranks as soon as one has left
        sys.exit(self.exit_code)
