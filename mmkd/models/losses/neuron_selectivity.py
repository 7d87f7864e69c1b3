from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.logits import not_negative
from mmkd.models.utils.mask import apply_mask, valid_images, weighted_map, weighted_mean
from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.resize import resize_like
from mmkd.models.utils.shapes import check_maps
from mmkd.registry import MODELS


@MODELS.register_module()
class NeuronSelectivity(DistillationLoss):
    """Distance of the distributions of the channels' activation patterns.

    NST, Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer"
    (arXiv 1707.01219): the squared maximum mean discrepancy of the channels' maps, each to length
    1, with the polynomial kernel k(x, y) = (x y)^2:

        loss = mean k(t, t') + mean k(s, s') - 2 mean k(t, s),   in [0, 2]

    over pairs of channels, averaged over images. The networks may differ in channels. The paper has
    weight 50. Maps whose root mean square is below 1e-3 are divided by 1e-3 times sqrt(HW).
    """

    any_channels: ClassVar[bool] = True

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare maps.

        Args:
            target: (N, C, H, W), brought to the source's size.
            source: (N, C', H', W').
            mask: Which positions count and how much, see `apply_mask`.

        Returns:
            A scalar.

        Raises:
            ConfigError: For vectors.
        """
        check_maps(target, source)
        with torch.autocast(target.device.type, enabled=False):
            source = source.float()
            target, source, weight = apply_mask(mask, resize_like(target.float(), source), source)
            t, s = (weighted_map(x, weight) for x in (target, source))
            t, s = (F.normalize(x, dim=2, eps=EPS * x.shape[2] ** 0.5) for x in (t, s))
            discrepancy = _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(t, s)
            return not_negative(weighted_mean(discrepancy, valid_images(weight)))


def _mean_kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.mT).square().mean((1, 2))
