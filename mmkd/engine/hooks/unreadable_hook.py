from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.datasets.skip_unreadable import KEY
from mmkd.registry import HOOKS


@HOOKS.register_module()
class UnreadableHook(Hook):
    """Log the images that `SkipUnreadable` replaced: each file once, and a count after each epoch.

    The files of other ranks are logged at the end of the epoch. After a resume in the middle of an
    epoch the count is that of its rest.
    """

    def __init__(self) -> None:
        self.named: set[str] = set()
        self.count = 0
        self.files: set[str] = set()

    def before_train_epoch(self, runner: Runner) -> None:
        """Start counting."""
        self.count, self.files = 0, set()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Collect the replaced files of a batch."""
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        faults = [fault for sample in samples or () for fault in sample.metainfo.get(KEY, ())]
        self.count += len(faults)
        self.files.update(faults)
        self._name(runner, faults)

    def after_train_epoch(self, runner: Runner) -> None:
        """Log how often images of this epoch were replaced, on all ranks together."""
        counts = all_gather_object((self.count, sorted(self.files)))
        files = {file for _, files in counts for file in files}
        self._name(runner, sorted(files))
        if files:
            runner.logger.warning(
                f'Epoch {runner.epoch + 1}: {sum(count for count, _ in counts)} times another '
                f'image stood in for one that cannot be used ({len(files)} files)'
            )

    def _name(self, runner: Runner, faults: list[str]) -> None:
        for fault in faults:
            if fault not in self.named:
                self.named.add(fault)
                runner.logger.warning(f'{fault}; another image stands in for it')
