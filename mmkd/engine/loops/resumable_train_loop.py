from collections.abc import Iterator
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmkd.registry import LOOPS
from mmkd.utils.errors import ConfigError

from .batch_stream import BatchStream


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """Epoch-based training that also goes on from a checkpoint in the middle of an epoch.

    A resumed run gets the batches of an unbroken one: the batches that the interrupted run has had
    are skipped without loading them, and what a sample's augmentation draws depends on the seed,
    the epoch and the sample's position in it (`BatchStream`). Resumed at the end of an epoch, the
    validation due then is done (again): a kill may have come before it.

    With an `unlabeled_dataloader` at the top level of the config, each iteration also draws one
    batch of it, without end, and passes it on as `data_batch['unlabeled']`.

    Args:
        runner: The Runner.
        dataloader: Loader of the training data, or its config.
        max_epochs: Epochs to train.
        unlabeled_dataloader: Loader of unlabeled images, or its config. Default: the config's
            top-level `unlabeled_dataloader`, if it has one.
        **kwargs: As mmengine's `EpochBasedTrainLoop`.

    Raises:
        ConfigError: If a loader gives no batch, or if the checkpoint's iteration lies outside its
            epoch: it comes from another batch size or data set.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_epochs: int,
        unlabeled_dataloader: DataLoader | dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        self.streams = training_streams(runner, self.dataloader, unlabeled_dataloader)

    def run(self) -> nn.Module:
        """Train to the end."""
        self.runner.call_hook('before_train')
        if self._epoch and self._iter == self._epoch * len(self.dataloader):
            # The run that is resumed may have been killed before its results were safe.
            self._validate()
        self.unlabeled = unlabeled_batches(self.streams, self._iter)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate(self) -> None:
        """Validate if it is due after the epochs that are done."""
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self.runner.val_loop.run()

    def run_epoch(self) -> None:
        """Train one epoch, from the iteration that is due."""
        length = len(self.dataloader)
        skip = self._iter - self._epoch * length
        if not 0 <= skip <= length:
            raise ConfigError(
                f'cannot resume: iteration {self._iter} does not belong to epoch {self._epoch + 1} '
                f'({length} iterations per epoch); batch size, number of processes and data must '
                'be those of the checkpoint'
            )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if skip:
            self.runner.logger.info(
                f'Skipped {skip} of {length} batches of epoch {self._epoch + 1}, already seen'
            )
        batches = self.streams['labeled'].epoch(self._epoch, skip) if skip < length else iter(())
        for idx, batch in zip(range(skip, length), batches):
            self.run_iter(idx, joined(batch, self.unlabeled))
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


def training_streams(
    runner: Runner, labeled: DataLoader, unlabeled: DataLoader | dict | None
) -> dict[str, BatchStream]:
    """Return the streams of the labeled and, if the config has any, of the unlabeled images."""
    (seed,) = seeds = [runner.seed]  # with diff_rank_seed another on each rank
    broadcast_object_list(seeds)
    (seed,) = seeds
    streams = dict(labeled=BatchStream(labeled, 'train_dataloader', seed))
    key = 'unlabeled_dataloader'
    cfg = runner.cfg.get(key) if unlabeled is None else unlabeled
    if cfg is None:
        return streams
    if not isinstance(cfg, (dict, DataLoader)) or (isinstance(cfg, dict) and 'dataset' not in cfg):
        raise ConfigError(f"{key}: expected a loader's config with 'dataset', got {cfg!r}")
    loader = Runner.build_dataloader(
        cfg, seed=seed, diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False)
    )
    streams['unlabeled'] = BatchStream(loader, key, seed, salt=1)
    return streams


def unlabeled_batches(streams: dict[str, BatchStream], position: int) -> Iterator[Any] | None:
    """Return the unlabeled batches from iteration `position` on, None if there are none."""
    return streams['unlabeled'].endless(position) if 'unlabeled' in streams else None


def joined(batch: dict, unlabeled: Iterator[Any] | None) -> dict:
    """Return a batch with the next unlabeled one as its `unlabeled`."""
    return batch if unlabeled is None else dict(batch, unlabeled=next(unlabeled))
