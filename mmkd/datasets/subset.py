import copy
from typing import Any

import numpy as np
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from mmkd.registry import DATASETS
from mmkd.utils.checks import check_integer, check_number
from mmkd.utils.errors import ConfigError


@DATASETS.register_module()
class LabeledSubset:
    """A random part of a training set, drawn by a seed: the images that count as labeled.

    Wrapped around the same data set with the same `share` or `count` and `seed`, `complement=True`
    gives the rest, for the unlabeled images. The draw depends on the seed, the data set's length
    and its order alone; of the same seed, a smaller subset lies inside a larger one.

    Args:
        dataset: Config of any data set of OpenMMLab's, or one that is built.
        share: The part to draw, in (0, 1]. Give `share` or `count`.
        count: The number of images to draw.
        seed: Start of the draw.
        complement: Whether to take the images that are not drawn.

    Raises:
        ConfigError: If not exactly one of `share` and `count` is given, for a value out of range,
            or if no image is left.
    """

    def __init__(
        self,
        dataset: Any,
        share: float | None = None,
        count: int | None = None,
        seed: int = 0,
        complement: bool = False,
    ) -> None:
        if (share is None) == (count is None):
            raise ConfigError(
                f"mmkd.LabeledSubset: give either 'share' or 'count', got {share!r} and {count!r}"
            )
        check_integer(seed, 'mmkd.LabeledSubset.seed', 0)
        self.dataset = MMENGINE_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        total = len(self.dataset)
        if share is not None:
            check_number(share, 'mmkd.LabeledSubset.share', 0, 1)
            count = round(share * total)
        else:
            check_integer(count, 'mmkd.LabeledSubset.count (of the data set)', 1, total)
        order = np.random.default_rng(seed).permutation(total)
        chosen = order[count:] if complement else order[:count]
        if not len(chosen):
            raise ConfigError(
                f'mmkd.LabeledSubset: no image is left of {total}, with {count} drawn and '
                f'complement={complement}'
            )
        self.indices = sorted(chosen.tolist())

    @property
    def metainfo(self) -> dict:
        """The data set's."""
        return copy.deepcopy(self.dataset.metainfo)

    def full_init(self) -> None:
        """Read the annotations, as mmengine's loops ask for."""
        self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return what the data set knows of the image `idx` of the subset."""
        return self.dataset.get_data_info(self.indices[idx])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, idx: int) -> Any:
        return self.dataset[self.indices[idx]]
