from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

from mmkd.datasets.skip_unreadable import KEY
from mmkd.registry import HOOKS


@HOOKS.register_module()
class UnreadableHook(Hook):
    """Tell of the images that `SkipUnreadable` has left out: each file once, and how often at the end of each epoch.

    Other ranks' files are told at the end of the epoch. After a resume in the middle of an epoch the count is that of its rest.
    """

    def __init__(self):
        self.named, self.count, self.files = set(), 0, set()

    def before_train_epoch(self, runner):
        self.count, self.files = 0, set()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        faults = [fault for sample in samples or () for fault in sample.metainfo.get(KEY, ())]
        self.count += len(faults)
        self.files.update(faults)
        self._name(runner, faults)

    def after_train_epoch(self, runner):
        counts = all_gather_object((self.count, sorted(self.files)))
        files = {file for _, files in counts for file in files}
        self._name(runner, sorted(files))
        if files:
            runner.logger.warning(
                f'Epoch {runner.epoch + 1}: {sum(count for count, _ in counts)} times another image stood in '
                f'for one that cannot be used ({len(files)} files)'
            )

    def _name(self, runner, faults):
        for fault in faults:
            if fault not in self.named:
                self.named.add(fault)
                runner.logger.warning(f'{fault}; another image stands in for it')
