import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmkd.registry import DATA_SAMPLERS
from mmkd.utils.errors import ConfigError


@DATA_SAMPLERS.register_module()
class ClassPairedSampler(Sampler):
    """Indices in pairs of one class: with an even `batch_size` each image of a batch has a partner of its class.

    For classification data. An epoch has every image at least once, in an order that depends on seed and epoch alone; the
    odd image of a class is paired with a drawn one of the class, an only image with itself. Ranks share out whole pairs, the
    first of which are repeated where the number of pairs is no multiple of the ranks.

    Args:
        dataset: Data set with labels: `get_gt_labels()`, or `get_data_info(i)['gt_label']`. Images of several labels are
            paired by the set of them.
        seed (int, optional): Start of the order, the same on all ranks. Default: drawn by rank 0.

    Raises:
        ConfigError: If the data set has no labels.
    """

    def __init__(self, dataset, seed=None):
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.groups = {}
        for index in range(len(dataset)):
            label = dataset.get_data_info(index).get('gt_label')
            if label is None:
                raise ConfigError(
                    f"sampler: ClassPairedSampler pairs images by 'gt_label', which {type(dataset).__name__} "
                    'lacks'
                )
            key = frozenset(label) if isinstance(label, (list, tuple)) else int(label)
            self.groups.setdefault(key, []).append(index)
        pairs = sum((len(group) + 1) // 2 for group in self.groups.values())
        self.num_pairs = -(-pairs // self.world_size)

    def __iter__(self):
        """Iterate over this rank's indices."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        pairs = []
        for group in self.groups.values():
            order = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
            if len(order) % 2:
                order.append(order[torch.randint(max(len(order) - 1, 1), (), generator=generator)])
            pairs += zip(order[::2], order[1::2])
        pairs = [pairs[i] for i in torch.randperm(len(pairs), generator=generator).tolist()]
        total = self.num_pairs * self.world_size
        pairs = (pairs * -(-total // len(pairs)))[:total]
        return iter([index for pair in pairs[self.rank :: self.world_size] for index in pair])

    def __len__(self):
        """The number of indices of this rank."""
        return 2 * self.num_pairs

    def set_epoch(self, epoch):
        """Take the order of `epoch`; mmengine's DistSamplerSeedHook calls it."""
        self.epoch = epoch

    @classmethod
    def plain_config(cls):
        """dict: What stands in an exported config, which runs without mmkd."""
        return dict(type='DefaultSampler', shuffle=True)
