import os
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from mmkd.registry import HOOKS
from mmkd.utils.checkpoint import latest_whole
from mmkd.utils.checks import choose
from mmkd.utils.files import remove_leftovers, write_atomically


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, safe against a kill or a full disk at any moment.

    Checkpoints are written to a temporary file, flushed and renamed; the old one is removed after the new one is whole (mmengine
    removes it first); `last_checkpoint` is written alike. The checkpoints of earlier preemptions (`PreemptionHook`) go, too, once
    a later one is whole. Arguments as mmengine's, less `backend_args`.

    Raises:
        OSError: If a checkpoint cannot be written (a full disk, a quota); the message names the one to resume from.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **dict(kwargs, backend_args=dict(backend='mmkd_atomic')))

    def before_train(self, runner):
        super().before_train(runner)
        if is_main_process():
            remove_leftovers(self.out_dir)

    def _save_checkpoint_with_step(self, runner, step, meta):
        keep, self.max_keep_ckpts = self.max_keep_ckpts, -1
        try:
            with told_on_failure(runner):
                super()._save_checkpoint_with_step(runner, step, meta)
                if is_main_process():
                    remember(runner.work_dir, self.last_ckpt)
        finally:
            self.max_keep_ckpts = keep
        if is_main_process():
            remove_preempted(runner.work_dir)
        if keep > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == keep:
                old = os.path.join(
                    self.out_dir, self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                )
                if is_main_process() and os.path.isfile(old):
                    os.remove(old)
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner, metrics):
        if not self.save_best:
            return
        for key in self.save_best:
            if key != 'auto':
                choose(key, metrics, 'default_hooks.checkpoint.save_best')
        # mmengine removes the previous best first: it is hidden until the new one is whole.
        several = getattr(self, 'best_ckpt_path_dict', None)
        if several is None:
            previous, self.best_ckpt_path = {None: self.best_ckpt_path}, None
        else:
            previous = dict(several)
            several.update(dict.fromkeys(several))
        with told_on_failure(runner):
            super()._save_best_checkpoint(runner, metrics)
        for key, old in previous.items():
            new = self.best_ckpt_path if several is None else several[key]
            if new is None and several is None:
                self.best_ckpt_path = old
            elif new is None:
                several[key] = old
            elif old and old != new and is_main_process() and os.path.isfile(old):
                os.remove(old)


@contextmanager
def told_on_failure(runner):
    """Let an OSError while saving say which checkpoint is left."""
    try:
        yield
    except OSError as error:
        left = latest_whole(runner.work_dir)
        rest = (
            f'{left} is whole: make room, then go on with --resume'
            if left
            else 'there is no earlier one'
        )
        raise OSError(
            error.errno,
            f'a checkpoint could not be saved in {runner.work_dir}: {error.strerror or error}; {rest}',
        ) from error


def remove_preempted(work_dir, newest=None):
    """Remove the checkpoints of earlier preemptions, all but `newest`, after a later one is whole."""
    for path in Path(work_dir).glob('preempted_iter_*.pth'):
        if path.name != newest:
            path.unlink()


def remember(work_dir, checkpoint):
    """Write the path of the latest checkpoint to `<work_dir>/last_checkpoint`."""

    def write(path):
        with open(path, 'w') as file:
            file.write(str(checkpoint))

    write_atomically(os.path.join(work_dir, 'last_checkpoint'), write)
