from collections.abc import Iterable
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.datasets.skip_unreadable import KEY
from mmkd.registry import HOOKS


@HOOKS.register_module()
class UnreadableHook(Hook):
    """Log the images that `SkipUnreadable` replaced: each file once, and a count for each epoch.

    Other ranks' files are logged at the end of the epoch. After a resume in the middle of an epoch
    the count is that of its rest.
    """

    def __init__(self) -> None:
        self.named: set[str] = set()
        self.count, self.files = 0, set[str]()

    def before_train_epoch(self, runner: Runner) -> None:
        """Start counting."""
        self.count, self.files = 0, set()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Name the files of this batch, labeled or not."""
        problems = _problems(data_batch)
        self.count += len(problems)
        self.files.update(problems)
        self._name(runner, problems)

    def after_train_epoch(self, runner: Runner) -> None:
        """Sum up over all ranks."""
        counts = all_gather_object((self.count, sorted(self.files)))
        files = {file for _, files in counts for file in files}
        self._name(runner, sorted(files))
        if files:
            runner.logger.warning(
                f'Epoch {runner.epoch + 1}: {sum(count for count, _ in counts)} times another '
                f'image stood in for one that cannot be used ({len(files)} files)'
            )

    def _name(self, runner: Runner, problems: Iterable[str]) -> None:
        for problem in problems:
            if problem not in self.named:
                self.named.add(problem)
                runner.logger.warning(f'{problem}; another image stands in for it')


def _problems(data_batch: Any) -> list[str]:
    if not isinstance(data_batch, dict):
        return []
    samples = data_batch.get('data_samples') or ()
    own = [problem for sample in samples for problem in sample.metainfo.get(KEY, ())]
    return own + _problems(data_batch.get('unlabeled'))
