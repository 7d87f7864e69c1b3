from collections.abc import Callable, Generator, Iterator
from typing import Any

from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmkd.models.distillers.preprocessing import tell_other_padding
from mmkd.registry import LOOPS
from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.model import distiller_of
from mmkd.utils.original_stack import no_early_batches

from .batch_stream import loader_config, training_streams
from .data_checks import check_data, check_unlabeled_given
from .loader_workers import end_workers


class _Resumable:
    """What both training loops share: their streams, kept by checkpoints, and when to validate."""

    runner: Runner
    dataloader: DataLoader
    val_begin: int
    val_interval: int
    _iter: int
    _decide_current_val_interval: Callable[[], None]

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        unlabeled_dataloader: DataLoader | dict[str, Any] | None = None,
        views: int | None = None,
        **kwargs: Any,
    ) -> None:
        if views is not None:
            check_integer(views, 'train_cfg.views')
        self.views = views
        with no_early_batches(), wrong_paths('train_dataloader.dataset'):
            super().__init__(runner, loader_config(dataloader), **kwargs)  # type: ignore[call-arg]
        _tell_other_padding(runner)
        self.streams = training_streams(runner, self.dataloader, unlabeled_dataloader, views)
        members = getattr(distiller_of(runner.model), 'members', None)
        online = getattr(members, 'online', None)
        check_data(runner.model, self.dataloader.dataset, 'train_dataloader', online)
        check_unlabeled_given(runner.model, 'unlabeled' in self.streams)
        if 'unlabeled' in self.streams:
            check_data(runner.model, self.streams['unlabeled'].dataset, 'unlabeled_dataloader')

    def state_dict(self) -> dict[str, Any]:
        """Return where the batches come from, for a checkpoint."""
        return {name: stream.state_dict() for name, stream in self.streams.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw the batches that the saved run would have drawn.

        Raises:
            ConfigError: If the batches cannot be the same.
        """
        for name, saved in state.items():
            if name in self.streams:
                self.streams[name].load_state_dict(saved)

    def _unlabeled(self) -> Generator[Any] | None:
        """Return the unlabeled batches from the iteration that is due, None if there are none."""
        stream = self.streams.get('unlabeled')
        if stream is None:
            return None
        links = getattr(distiller_of(self.runner.model), 'links', None)
        if links is not None and all(link.spec.on == 'labeled' for link in links):
            self.runner.logger.info('No link acts on unlabeled images: they are not loaded')
            return None
        return stream.endless(self._iter)

    def _end(self, *batches: Generator[Any] | None) -> None:
        """Let go of the batches, and end the workers that load them."""
        for each in batches:
            if each is not None:
                each.close()
        loaders = [stream.loader for stream in self.streams.values()]
        if self.runner.val_loop is not None:
            loaders.append(self.runner.val_loop.dataloader)
        for loader in loaders:
            end_workers(loader)

    def _validate(self, done: int, total: int) -> None:
        """Validate if it is due after `done` of `total` epochs (or iterations)."""
        self._decide_current_val_interval()
        due = done % self.val_interval == 0 or done == total
        if self.runner.val_loop is not None and done >= self.val_begin and due:
            self.runner.val_loop.run()


def _tell_other_padding(runner: Runner) -> None:
    top, model = runner.cfg.get('data_preprocessor'), runner.cfg.get('model')
    specs = getattr(distiller_of(runner.model), 'specs', None)
    if specs and isinstance(top, dict) and 'data_preprocessor' not in (model or {}):
        configs = {name: spec.config for name, spec in specs.items() if spec.config is not None}
        tell_other_padding(configs, top)


@LOOPS.register_module()
class ResumableTrainLoop(_Resumable, EpochBasedTrainLoop):
    """Epoch-based training that also goes on from a checkpoint in the middle of an epoch.

    A resumed run gets the batches of an unbroken one: the batches that the interrupted run has had
    are skipped without loading them, and what a sample's augmentation draws depends on the seed,
    the epoch and the sample's position in it (`BatchStream`). Resumed at the end of an epoch, the
    validation due then is done (again): a kill may have come before it.

    With an `unlabeled_dataloader` at the top level of the config, and links that act on unlabeled
    images, each iteration also draws one batch of it, without end, and passes it on as
    `data_batch['unlabeled']`.

    Args:
        runner: The Runner.
        dataloader: Loader of the training data, or its config.
        unlabeled_dataloader: Loader of unlabeled images, or its config. Default: the config's
            top-level `unlabeled_dataloader`, if it has one.
        views: Views of each image: in pass e through the data its augmentation draws what it drew
            in pass e % views, so that a frozen member with `cache_mb` need not run on it again.
            Default: None, another view in each pass.
        **kwargs: As mmengine's `EpochBasedTrainLoop`: `max_epochs` to train, `val_interval`, ...

    Raises:
        ConfigError: If a loader gives no batch, or if a checkpoint cannot go on with these data.
    """

    def run(self) -> nn.Module:
        """Train to the end."""
        self.runner.call_hook('before_train')
        if self._epoch and self._iter == self._epoch * len(self.dataloader):
            # The run that is resumed may have been killed before its results were safe.
            self._validate(self._epoch, self._max_epochs)
        self.unlabeled = self._unlabeled()
        try:
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self._validate(self._epoch, self._max_epochs)
        finally:
            self._end(self.unlabeled)
        self.runner.call_hook('after_train')
        return self.runner.model

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
            self.run_iter(idx, _joined(batch, self.unlabeled))
        if not self.streams['labeled'].is_endless:
            next(batches, None)  # to its end: a batch sampler may have something to clear there
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterTrainLoop(_Resumable, IterBasedTrainLoop):
    """Iteration-based training with the guarantees of `ResumableTrainLoop`.

    For MMSegmentation's convention. It goes on at the exact batch, does a validation that a kill
    cut off, and takes an `unlabeled_dataloader`. The hooks that count epochs see one epoch, as in
    mmengine; the log counts iterations, whatever its config says. With a `DefaultSampler` every
    pass over the data is shuffled anew, as with an `InfiniteSampler`.

    Args:
        runner: The Runner.
        dataloader: Loader of the training data, or its config.
        unlabeled_dataloader: Loader of unlabeled images, or its config. Default: the config's
            top-level `unlabeled_dataloader`, if it has one.
        views: As for `ResumableTrainLoop`.
        **kwargs: As mmengine's `IterBasedTrainLoop`: `max_iters` to train, `val_interval`, ...

    Raises:
        ConfigError: If a loader gives no batch, if a checkpoint cannot go on with these data, or if
            checkpoints or learning rates are counted in epochs, which never end.
    """

    def run(self) -> nn.Module:
        """Train to the end."""
        _count_iterations(self.runner)
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        batches, unlabeled = self.streams['labeled'].endless(self._iter), self._unlabeled()
        if self._iter:
            # The run that is resumed may have been killed before its results were safe.
            self._validate(self._iter, self._max_iters)
        try:
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                self.run_iter(_joined(next(batches), unlabeled))
                self._validate(self._iter, self._max_iters)
        finally:
            self._end(batches, unlabeled)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model


def _count_iterations(runner: Runner) -> None:
    """Let the log count iterations; refuse what waits for the end of an epoch."""
    runner.log_processor.by_epoch = False
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook):
            hook.log_metric_by_epoch = False
        if isinstance(hook, CheckpointHook) and hook.by_epoch:
            raise ConfigError(
                'default_hooks.checkpoint.by_epoch: expected False with an interval of iterations, '
                'as the training counts them, got True'
            )
    schedulers = runner.param_schedulers or []
    parts = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    for part in parts:
        for i, scheduler in enumerate(part):
            if scheduler.by_epoch:
                raise ConfigError(
                    f'param_scheduler[{i}].by_epoch: expected False, as the training counts '
                    f'iterations ({type(scheduler).__name__} would never step), got True'
                )


def _joined(batch: dict[str, Any], unlabeled: Iterator[Any] | None) -> dict[str, Any]:
    """Return a batch with the next unlabeled one, if there is any, as its `unlabeled`."""
    return batch if unlabeled is None else dict(batch, unlabeled=next(unlabeled))
