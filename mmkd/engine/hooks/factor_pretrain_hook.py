from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmkd.engine.loops.batch_stream import (
    BatchStream,
    DrawnDataset,
    GlobalStates,
    global_states,
    seeded,
    set_global_states,
    shared_seed,
)
from mmkd.registry import HOOKS
from mmkd.utils.checks import build_checked, check_integer
from mmkd.utils.errors import ConfigError
from mmkd.utils.model import distiller_of


class Job(NamedTuple):
    """A connector that is to be fitted to what a source's tap gives (at one of its levels)."""

    name: str
    place: tuple[str, str]
    level: int | None
    connector: Any


@HOOKS.register_module()
class FactorPretrainHook(Hook):
    """Fit the links' source connectors that say so, on their frozen sources, before training.

    That is the first stage of IE-KD (arXiv 2107.00181), whose `FactorAutoEncoder`s learn to rebuild
    the source's maps, and of any other connector with `fits_first` (see `Connector`). The hook
    reads the training set through a loader of its own (the same pipeline and batch size, without
    the preprocessor's batch augmentations) and leaves all random states as they were. The weights
    are in the checkpoint: a resumed run does not repeat it, and goes on where a signal stopped it
    (`PreemptionHook`). Several processes average their gradients.

    Args:
        epochs: Default: 30, the authors'.
        optimizer: Default: SGD with lr 0.1 (the authors'), momentum 0.9 and weight decay 5e-4
            (mmkd's choice).
        max_iters: Stop early after this many iterations. Default: None.

    Raises:
        ConfigError: For numbers below 1, a training set smaller than a batch, or a connector that
            it cannot fit.
    """

    key = 'mmkd_pretraining'

    def __init__(
        self,
        epochs: int = 30,
        optimizer: dict[str, Any] | None = None,
        max_iters: int | None = None,
    ) -> None:
        check_integer(epochs, 'FactorPretrainHook.epochs')
        if max_iters is not None:
            check_integer(max_iters, 'FactorPretrainHook.max_iters')
        self.epochs, self.max_iters = epochs, max_iters
        self.optimizer_cfg = dict(
            optimizer or dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
        )
        self.done = 0
        self.optimizer: Optimizer | None = None
        self.resumed: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add how far it is, if a signal stops it."""
        if self.optimizer is not None:
            checkpoint[self.key] = dict(done=self.done, optimizer=self.optimizer.state_dict())

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep how far an interrupted run was."""
        self.resumed = checkpoint.get(self.key) if runner._resume else None

    def before_train(self, runner: Runner) -> None:
        """Fit."""
        model = distiller_of(runner.model)
        jobs = list(_jobs(model))
        if not jobs:
            return
        with seeded(runner.seed) as outer:
            connectors = [job.connector for job in jobs]
            for connector in connectors:
                connector.learn(True)
            self._fit(runner, model, jobs, outer)
            for connector in connectors:
                for buffer in connector.buffers():
                    broadcast(buffer)  # each process has its own running statistics
                connector.fitted = True
                connector.learn(False)

    def _fit(self, runner: Runner, model: nn.Module, jobs: list[Job], outer: GlobalStates) -> None:
        stream = _stream(runner)
        parameters = [p for job in jobs for p in job.connector.parameters()]
        key = 'FactorPretrainHook.optimizer'
        optimizer = build_checked(OPTIMIZERS, self.optimizer_cfg, key, params=parameters)
        self.done, self.optimizer = 0, optimizer
        if self.resumed is not None:
            self.done = self.resumed['done']
            optimizer.load_state_dict(self.resumed['optimizer'])
        total = self.epochs * len(stream)
        total = total if self.max_iters is None else min(total, self.max_iters)
        sums: list[float | Tensor] = [0.0] * len(jobs)
        counted, batches = 0, stream.endless(self.done)
        while self.done < total:
            losses = _losses(model, jobs, next(batches))
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            if get_world_size() > 1:
                for parameter in parameters:
                    all_reduce(parameter.grad, 'mean')
            optimizer.step()
            sums = [s + loss.detach() for s, loss in zip(sums, losses)]
            self.done, counted = self.done + 1, counted + 1
            if self.done % len(stream) == 0 or self.done == total:
                means = (f'{job.name}: {float(s) / counted:.4f}' for s, job in zip(sums, jobs))
                epoch = (self.done - 1) // len(stream) + 1
                runner.logger.info(f'Fitting, epoch {epoch}/{self.epochs}: {", ".join(means)}')
                sums, counted = [0.0] * len(jobs), 0
            if self.done < total:
                own = global_states()
                set_global_states(outer)  # what a checkpoint is to hold: the training's
                runner.call_hook('after_pretrain_iter', iteration=self.done)
                set_global_states(own)
        optimizer.zero_grad(set_to_none=True)  # the training's first step has these parameters, too
        self.optimizer = None


def _jobs(model: Any) -> Iterator[Job]:
    """Yield the connectors that are to be fitted."""
    for link in model.links:
        several = len(link.source_connectors) > 1
        for index, chain in enumerate(link.source_connectors):
            for place, connector in enumerate(
                chain if isinstance(chain, nn.ModuleList) else [chain]
            ):
                if not getattr(connector, 'fits_first', False) or connector.fitted:
                    continue
                if place or len(link.source) > 1:
                    raise ConfigError(
                        f'{link.key}.source_connector[{place}]: {type(connector).__name__} is '
                        'fitted before the training, so it must stand first, with one source'
                    )
                (source,) = link.source
                level = f'[{index}]' if several else ''
                yield Job(
                    f'{link.target} <- {source}.{link.source_tap}{level}',
                    (source, link.source_tap),
                    index if several else None,
                    connector,
                )


def _losses(model: Any, jobs: list[Job], batch: dict[str, Any]) -> list[Tensor]:
    data = model.data_preprocessor(batch, False)
    sources = {job.place[0] for job in jobs}
    values = model.read_taps(data['inputs'], data['data_samples'], sources)
    losses = []
    for job in jobs:
        value = values[job.place]
        if isinstance(value, list):
            value = value[job.level or 0]
        losses.append(job.connector.fit_loss(value))
    return losses


def _stream(runner: Runner) -> BatchStream:
    """Return the training set's batches, drawn apart from those of the training."""
    dataset = runner.train_dataloader.dataset
    cfg = dict(
        runner.cfg.train_dataloader,
        dataset=dataset.wrapped if isinstance(dataset, DrawnDataset) else dataset,
        drop_last=True,
        persistent_workers=False,
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    cfg.pop('batch_sampler', None)
    seed = shared_seed(runner)
    loader = Runner.build_dataloader(cfg, seed=seed)
    return BatchStream(loader, 'FactorPretrainHook: train_dataloader', seed, salt=2)
