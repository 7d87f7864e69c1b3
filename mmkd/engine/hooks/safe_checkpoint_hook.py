import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.runner import Runner

from mmkd.registry import HOOKS
from mmkd.utils.checkpoint import latest_whole
from mmkd.utils.checks import check_integer, choose
from mmkd.utils.errors import ConfigError, MachineError
from mmkd.utils.files import remove_leftovers, write_atomically
from mmkd.utils.model import distiller_of


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, safe against a kill or a full disk at any moment.

    Checkpoints are written to a temporary file, flushed and renamed; the old one is removed after
    the new one is whole (mmengine removes it first); `last_checkpoint` is written alike. The
    checkpoints of earlier preemptions (`PreemptionHook`) are removed, too, once a later one is
    whole. The work folder is locked while the training runs. Arguments as mmengine's, less
    `backend_args`.

    Raises:
        ConfigError: If another training writes to the work folder, or for an interval of 0.
        MachineError: If a checkpoint cannot be written (a full disk, a quota); the message names
            the one to resume from.
    """

    max_keep_ckpts: int
    best_ckpt_path: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **dict(kwargs, backend_args=dict(backend='mmkd_atomic')))
        for name in ('interval', 'max_keep_ckpts'):
            check_integer(getattr(self, name), f'default_hooks.checkpoint.{name}', -1)
        if not self.interval:
            raise ConfigError(
                'default_hooks.checkpoint.interval: 0 would never save; expected 1 or more, or -1 '
                'for the best and the last alone'
            )
        self.lock: IO[str] | None = None

    def before_train(self, runner: Runner) -> None:
        """Lock the work folder, and remove what kills have left in it."""
        self._check_metrics(runner)
        super().before_train(runner)
        problem = None
        if is_main_process():
            try:
                self.lock = locked(runner.work_dir)
            except BlockingIOError:
                problem = (
                    f'work_dir: another training writes to {runner.work_dir}; wait for its end, '
                    'or take another folder'
                )
        problems = [problem]
        broadcast_object_list(problems)
        if problems[0]:
            raise ConfigError(problems[0])
        if is_main_process():
            for folder in (self.out_dir, runner.work_dir):
                remove_leftovers(folder)
            self._remove(runner.message_hub.get_info('superseded_ckpt', None))

    def _check_metrics(self, runner: Runner) -> None:
        """Raise a ConfigError for a metric that is waited for and has no evaluated member's name.

        Metrics of several members begin with the name of a member, or with `ensemble`.
        """
        evaluated = getattr(runner.val_loop, 'names', None)
        waited = [
            ('default_hooks.checkpoint.save_best', metric)
            for metric in self.save_best or ()
            if metric != 'auto'
        ]
        waited += [
            (f'custom_hooks.{type(hook).__name__}.monitor', hook.monitor)
            for hook in runner.hooks
            if isinstance(hook, EarlyStoppingHook)
        ]
        schedules = runner.param_schedulers or []
        lists = schedules.values() if isinstance(schedules, dict) else [schedules]
        waited += [
            (f'param_scheduler.{type(schedule).__name__}.monitor', schedule.monitor)
            for schedule in itertools.chain(*lists)
            if getattr(schedule, 'need_val_args', False)
        ]
        members = getattr(distiller_of(runner.model), 'evaluated', None)
        for key, metric in waited:
            owner, _, rest = metric.partition('/')
            if evaluated is not None and owner not in evaluated:
                name = 'ensemble' if 'ensemble' in evaluated else evaluated[-1]
                own = rest if members is not None and owner in [*members, 'ensemble'] else metric
                raise ConfigError(
                    f'{key}: {metric!r} names none of the evaluated ({", ".join(evaluated)}); did '
                    f"you mean '{name}/{own}'?"
                )
            if evaluated is None and runner.val_loop is not None and members and owner in members:
                raise ConfigError(
                    f'{key}: {metric!r} is the metric of a member, which only '
                    "val_cfg=dict(type='mmkd.MemberValLoop') gives"
                )

    def after_run(self, runner: Runner) -> None:
        """Unlock the work folder."""
        if self.lock is not None:
            self.lock.close()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        keep, old = self.max_keep_ckpts, None
        if keep > 0 and step not in self.keep_ckpt_ids:
            # The file says what is kept beside it, so that a run resumed from it removes it, too.
            if len(self.keep_ckpt_ids) == keep:
                name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                old = os.path.join(self.out_dir, name)
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            runner.message_hub.update_info('superseded_ckpt', old)
        runner.call_hook('before_saving')
        self.max_keep_ckpts = -1
        try:
            with told_on_failure(runner):
                super()._save_checkpoint_with_step(runner, step, meta)
                if is_main_process():
                    remember(runner.work_dir, self.last_ckpt)
        finally:
            self.max_keep_ckpts = keep
        if is_main_process():
            remove_preempted(runner.work_dir)
            self._remove(old)

    @staticmethod
    def _remove(path: str | None) -> None:
        if path and os.path.isfile(path):
            os.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        for key in self.save_best:
            if key != 'auto':
                choose(key, metrics, 'default_hooks.checkpoint.save_best')
        runner.call_hook('before_saving')
        # mmengine removes the previous best first: it is hidden until the new one is whole.
        several = getattr(self, 'best_ckpt_path_dict', None)
        if several is None:
            previous, self.best_ckpt_path = {None: self.best_ckpt_path}, None
        else:
            previous = dict(several)
            for key in several:
                several[key] = None
        with told_on_failure(runner):
            super()._save_best_checkpoint(runner, metrics)
        for key, old in previous.items():
            new = self.best_ckpt_path if several is None else several[key]
            if new is None and several is None:
                self.best_ckpt_path = old
            elif new is None and several is not None:
                several[key] = old
            elif old != new and is_main_process():
                self._remove(old)


def locked(work_dir: str) -> IO[str]:
    """Return the open `<work_dir>/.lock`, locked until it is closed or this process ends.

    Raises:
        BlockingIOError: If another process holds it.
    """
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    file = open(os.path.join(work_dir, '.lock'), 'a')  # noqa: SIM115
    try:
        # Not the flock of `mmkd.utils.locks`: workers of a data loader that outlive a kill for
        # seconds would hold that, and the training could not go on at once.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise BlockingIOError(*error.args) from error
    return file


@contextmanager
def told_on_failure(runner: Runner) -> Iterator[None]:
    """Let an error of the disk while saving say which checkpoint is left.

    Raises:
        MachineError: In its place.
    """
    try:
        yield
    except MachineError:
        raise
    except OSError as error:
        left = latest_whole(runner.work_dir)
        rest = (
            f'{left} is whole: make room, then go on with --resume'
            if left
            else 'there is no earlier one'
        )
        raise MachineError(
            error.errno,
            f'a checkpoint could not be saved in {runner.work_dir}: '
            f'{error.strerror or error}; {rest}',
        ) from error


def remove_preempted(work_dir: str, newest: str | None = None) -> None:
    """Remove the checkpoints of earlier preemptions, all but `newest`."""
    for path in Path(work_dir).glob('preempted_iter_*.pth'):
        if path.name != newest:
            path.unlink()


def remember(work_dir: str, checkpoint: Any) -> None:
    """Write the path of the latest checkpoint to `<work_dir>/last_checkpoint`."""

    def write(path: str) -> None:
        with open(path, 'w') as file:
            file.write(str(checkpoint))

    write_atomically(os.path.join(work_dir, 'last_checkpoint'), write)
