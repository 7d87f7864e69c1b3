import random
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast_object_list, get_dist_info
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmkd.utils.checks import check_sampler
from mmkd.utils.errors import ConfigError, wrong_paths

from .loader_workers import keep_workers


class Draw(NamedTuple):
    """What a loader asks its data set for: the sample `index`, with random numbers of its own.

    With a `view` they are those of this view of the sample, else those of the epoch and position.
    """

    index: Any
    epoch: int
    position: int
    view: int | None = None


GlobalStates = tuple[Any, Any, Tensor]


@contextmanager
def seeded(*words: int) -> Iterator[GlobalStates]:
    """Seed Python's, numpy's and torch's CPU generators by `words`; restore their states after."""
    states = global_states()
    seeds = np.random.SeedSequence(words).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    torch.default_generator.manual_seed(int(seeds[2]))
    try:
        yield states
    finally:
        set_global_states(states)


def global_states() -> GlobalStates:
    """Return the states of Python's, numpy's and torch's CPU generators."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_global_states(states: GlobalStates) -> None:
    """Set the states of Python's, numpy's and torch's CPU generators."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


class DrawnDataset(Dataset):
    """A data set whose samples are augmented by random numbers of their own.

    What a sample draws depends on the seed, the epoch and its position in the epoch alone: not on
    the worker that loads it, nor on what was loaded before. In all else it is the data set itself:
    attributes are read from it and set on it.

    Args:
        dataset: The data set.
        seed: Seed of the run.
        salt: Separates the streams of several loaders of one run.
    """

    def __init__(self, dataset: Dataset, seed: int, salt: int) -> None:
        self.__dict__.update(wrapped=dataset, draw_seed=seed, draw_salt=salt)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, Draw):
            return self.wrapped[index]
        own = (index.epoch, index.position) if index.view is None else (index.index, index.view)
        with seeded(self.draw_salt, self.draw_seed, *own):
            return self.wrapped[index.index]

    def __len__(self) -> int:
        return _size(self.wrapped)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or 'wrapped' not in self.__dict__:  # copying, unpickling
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.wrapped, name, value)


def _size(dataset: Any) -> int:
    return len(dataset)


class NumberedBatches:
    """A batch sampler that numbers its samples and can start in the middle of an epoch.

    Positions count the samples of all ranks, so that no two ranks share a number.

    Args:
        batch_sampler: The batch sampler whose batches these are.
        size: Number of samples of the data set.
        views: Views of each sample, one after the other in each pass through the data. Default:
            None, a new one each time.
    """

    def __init__(self, batch_sampler: Any, size: int, views: int | None = None) -> None:
        self.batch_sampler = batch_sampler
        self.size, self.views = size, views
        self.epoch, self.skip = 0, 0

    @property
    def sampler(self) -> Any:
        """The sampler below, for hooks that set its epoch."""
        return self.batch_sampler.sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._batches(self.epoch, self.skip)

    def _batches(self, epoch: int, skip: int) -> Iterator[list[Draw]]:
        rank, ranks = get_dist_info()
        position = rank
        for number, batch in enumerate(self.batch_sampler):
            if number >= skip:
                places = range(position, position + ranks * len(batch), ranks)
                yield [
                    Draw(one, epoch, at, self._view(epoch, at)) for one, at in zip(batch, places)
                ]
            position += ranks * len(batch)

    def _view(self, epoch: int, position: int) -> int | None:
        if self.views is None:
            return None
        # An epoch without end (`InfiniteSampler`) goes through the data again and again.
        return (epoch + position // max(self.size, 1)) % self.views


class BatchStream:
    """The batches of a loader, from any position on.

    It makes each sample's augmentation a function of (seed, epoch, position) and skips batches
    without loading them, so a resumed run gets the batches of an unbroken one, whatever the number
    of workers, persistent or not. Random numbers that a transform keeps in a generator of its own
    are outside of this.

    Args:
        loader: The loader; its data set and batch sampler are wrapped in place.
        key: Where its config stands, for messages.
        seed: Seed of the run, the same on all ranks.
        salt: Separates the draws of several loaders of one run. Default: 0.
        views: Views of each image: in pass e through the data its augmentation is the one of
            e % views. Default: None, another in each pass.

    Raises:
        ConfigError: If the loader gives no batch, or has no numbered samples.
    """

    def __init__(
        self, loader: DataLoader, key: str, seed: int, salt: int = 0, views: int | None = None
    ) -> None:
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            raise ConfigError(f'{key}: expected a data set with numbered samples, in batches')
        if not len(loader):
            raise ConfigError(
                f'{key}: {_size(loader.dataset)} images give no batch of batch_size='
                f'{loader.batch_size}' + (' with drop_last=True' if loader.drop_last else '')
            )
        self.loader, self.key = loader, key
        self.batches = NumberedBatches(loader.batch_sampler, _size(loader.dataset), views)
        self.dataset = DrawnDataset(loader.dataset, seed, salt)
        # A loader refuses to set these because a running iterator would keep the old ones; there
        # is none yet.
        object.__setattr__(loader, 'batch_sampler', self.batches)
        object.__setattr__(loader, 'dataset', self.dataset)
        # An iterator draws its workers' seed: not from the stream that the training draws from.
        loader.generator = torch.Generator()
        keep_workers(loader)

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """Return an iterator over the batches of one epoch, without the first `skip` ones."""
        for sampler in (self.batches.batch_sampler, self.batches.sampler):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
        self.batches.epoch, self.batches.skip = epoch, skip
        return iter(self.loader)

    def endless(self, position: int = 0) -> Generator[Any]:
        """Yield batches without end, from batch number `position` of the whole stream on."""
        epoch = 0
        if not self.is_endless:
            epoch, position = divmod(position, len(self))
        while True:
            yield from self.epoch(epoch, position)
            epoch, position = epoch + 1, 0

    @property
    def is_endless(self) -> bool:
        """Whether one epoch has no end."""
        return isinstance(self.batches.sampler, InfiniteSampler)

    def state_dict(self) -> dict[str, Any]:
        """Return what the batches depend on, for a checkpoint."""
        return dict(
            seed=self.dataset.draw_seed,
            sampler_seed=getattr(self.batches.sampler, 'seed', None),
            batches=len(self),
            images=len(self.dataset),
            views=self.batches.views,
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw from now on what the saved stream would have drawn.

        Raises:
            ConfigError: If the number of batches, images or views is another one.
        """
        for name in ('batches', 'images'):
            own = self.state_dict()[name]
            if state[name] != own:
                raise ConfigError(
                    f'cannot resume: {self.key} has {own} {name} per epoch, the checkpoint '
                    f'{state[name]}; batch size, number of processes and data must be those of '
                    'the checkpoint'
                )
        if state.get('views') != self.batches.views:
            raise ConfigError(
                f'cannot resume: train_cfg.views: expected {state.get("views")}, as in the '
                f'checkpoint, got {self.batches.views}'
            )
        self.dataset.__dict__['draw_seed'] = state['seed']
        if state['sampler_seed'] is not None and hasattr(self.batches.sampler, 'seed'):
            self.batches.sampler.seed = state['sampler_seed']


def shared_seed(runner: Runner) -> int:
    """Return the seed of rank 0; with `diff_rank_seed` each rank has another."""
    seeds = [runner.seed]
    broadcast_object_list(seeds)
    return seeds[0]


def loader_config(loader: Any) -> Any:
    """Return a loader's config; without workers, none of them is persistent."""
    if isinstance(loader, dict) and not loader.get('num_workers'):
        return dict(loader, persistent_workers=False)
    return loader


def training_streams(
    runner: Runner,
    labeled: DataLoader,
    unlabeled: DataLoader | dict[str, Any] | None = None,
    views: int | None = None,
) -> dict[str, BatchStream]:
    """Return the streams of the labeled and, if there are any, of the unlabeled images.

    Args:
        runner: The Runner, whose seed and top-level `unlabeled_dataloader` they have.
        labeled: Loader of the labeled images.
        unlabeled: Loader of the unlabeled ones, or its config, in place of the top-level one.
        views: Views of each image. Default: None, another in each pass through the data.

    Raises:
        ConfigError: If a loader gives no batch, or if the unlabeled one is no loader's config.
    """
    seed = shared_seed(runner)
    streams = dict(labeled=BatchStream(labeled, 'train_dataloader', seed, views=views))
    key = 'unlabeled_dataloader'
    cfg = runner.cfg.get(key) if unlabeled is None else unlabeled
    if cfg is None:
        return streams
    if not isinstance(cfg, (dict, DataLoader)) or (isinstance(cfg, dict) and 'dataset' not in cfg):
        raise ConfigError(f"{key}: expected a loader's config with 'dataset', got {cfg!r}")
    check_sampler(cfg, key)
    different = runner._randomness_cfg.get('diff_rank_seed', False)
    with wrong_paths(f'{key}.dataset'):
        loader = Runner.build_dataloader(loader_config(cfg), seed=seed, diff_rank_seed=different)
    streams['unlabeled'] = BatchStream(loader, key, seed, salt=1, views=views)
    return streams
