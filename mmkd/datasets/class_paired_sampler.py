import math
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmkd.registry import DATA_SAMPLERS
from mmkd.utils.errors import ConfigError


@DATA_SAMPLERS.register_module()
class ClassPairedSampler(Sampler):
    """Indices in pairs of one class: with an even `batch_size` each image has a partner of its
    class.

    For classification data. An epoch has every image at least once, in an order that depends on
    seed and epoch alone. If a class has an odd number of images, the last one is paired with a
    random other one of the class; the only image of a class is paired with itself. Each rank gets
    whole pairs. If the number of pairs is not a multiple of the ranks, the first pairs are
    repeated.

    Args:
        dataset: Data set whose `get_data_info(i)` has `gt_label`. Images of several labels are
            paired by the set of them.
        seed: Start of the order, the same on all ranks. Default: None (drawn by rank 0).

    Raises:
        ConfigError: If the data set has no labels or no items.
    """

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.groups: dict[Hashable, list[int]] = {}
        for index in range(len(dataset)):
            label = dataset.get_data_info(index).get('gt_label')
            if label is None:
                raise ConfigError(
                    "sampler: ClassPairedSampler pairs images by 'gt_label', which "
                    f'{type(dataset).__name__} lacks'
                )
            key = frozenset(label) if isinstance(label, (list, tuple)) else int(label)
            self.groups.setdefault(key, []).append(index)
        if not self.groups:
            raise ConfigError('sampler: ClassPairedSampler got a data set without items')
        pairs = sum(math.ceil(len(group) / 2) for group in self.groups.values())
        self.num_pairs = math.ceil(pairs / self.world_size)

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's indices."""
        pairs = self._all_pairs()
        total = self.num_pairs * self.world_size
        pairs = (pairs * math.ceil(total / len(pairs)))[:total]
        return iter([index for pair in pairs[self.rank :: self.world_size] for index in pair])

    def _all_pairs(self) -> list[tuple[int, int]]:
        """Return the pairs of this epoch in random order, the same on all ranks."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        pairs: list[tuple[int, int]] = []
        for group in self.groups.values():
            order = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
            if len(order) % 2:
                others = max(len(order) - 1, 1)
                order.append(order[int(torch.randint(others, (), generator=generator))])
            pairs += zip(order[::2], order[1::2])
        return [pairs[i] for i in torch.randperm(len(pairs), generator=generator).tolist()]

    def __len__(self) -> int:
        return 2 * self.num_pairs

    def set_epoch(self, epoch: int) -> None:
        """Take the order of `epoch`; mmengine's DistSamplerSeedHook calls this."""
        self.epoch = epoch

    @classmethod
    def plain_config(cls) -> dict:
        """Return what stands in an exported config, which runs without mmkd."""
        return dict(type='DefaultSampler', shuffle=True)
