from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmkd.registry import TRANSFORMS
from mmkd.utils.checks import check_integer, check_number
from mmkd.utils.errors import ConfigError


@TRANSFORMS.register_module()
class LabelNoise(BaseTransform):
    """Give a share of the images a wrong class: symmetric label noise, for studies.

    Of each image it is drawn once and for all whether its label is wrong, and which of the other
    classes it gets (each alike), from the seed and the image's place in the data set: every epoch
    and every worker sees the same labels. Symmetric noise is the usual benchmark of learning with
    noisy labels (Han et al., "Co-teaching", arXiv 1804.06872, who draw the class among all but the
    true one, too).

    Required keys: `gt_label` (an integer), `sample_idx`. Modified key: `gt_label`.

    Args:
        share: Probability of a wrong label, in [0, 1].
        num_classes: Number of classes, 2 or more.
        seed: Start of the draw.

    Raises:
        ConfigError: For values out of range, and while loading for a label that is none of the
            classes.
    """

    plain_config = None  # a network needs nothing in its place

    def __init__(self, share: float, num_classes: int, seed: int = 0) -> None:
        check_number(share, 'mmkd.LabelNoise.share', most=1)
        check_integer(num_classes, 'mmkd.LabelNoise.num_classes', 2)
        check_integer(seed, 'mmkd.LabelNoise.seed', 0)
        self.share, self.num_classes, self.seed = share, num_classes, seed

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace the label of an image whose label is to be wrong."""
        label = results['gt_label']
        if not isinstance(label, (int, np.integer)) or not 0 <= label < self.num_classes:
            raise ConfigError(
                f'mmkd.LabelNoise.num_classes: {self.num_classes}, but the label of '
                f'{results.get("img_path", "an image")} is {label!r}; expected one integer below '
                'num_classes'
            )
        draw = np.random.default_rng([self.seed, results['sample_idx']])
        if draw.random() < self.share:
            results['gt_label'] = int(
                (label + draw.integers(1, self.num_classes)) % self.num_classes
            )
        return results
