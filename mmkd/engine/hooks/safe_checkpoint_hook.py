import os

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from mmkd.registry import HOOKS
from mmkd.utils.checks import choose
from mmkd.utils.files import write_atomically


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, safe against a kill or a full disk at any moment.

    Checkpoints are written to a temporary file, flushed and renamed; the old one is removed after the new one is whole (mmengine
    removes it first); `last_checkpoint` is written alike. Arguments as mmengine's, less `backend_args`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **dict(kwargs, backend_args=dict(backend='mmkd_atomic')))

    def _save_best_checkpoint(self, runner, metrics):
        for key in self.save_best or ():
            if key != 'auto':
                choose(key, metrics, 'default_hooks.checkpoint.save_best')
        super()._save_best_checkpoint(runner, metrics)

    def _save_checkpoint_with_step(self, runner, step, meta):
        keep, self.max_keep_ckpts = self.max_keep_ckpts, -1
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = keep
        if is_main_process():
            remember(runner.work_dir, self.last_ckpt)
        if keep > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == keep:
                old = os.path.join(self.out_dir, self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
                if is_main_process() and os.path.isfile(old):
                    os.remove(old)
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))


def remember(work_dir, checkpoint):
    """Write the path of the latest checkpoint to `<work_dir>/last_checkpoint`."""
    def write(path):
        with open(path, 'w') as file:
            file.write(str(checkpoint))
    write_atomically(os.path.join(work_dir, 'last_checkpoint'), write)
