from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask, valid_images, weighted_map, weighted_mean
from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.resize import resize_like
from mmkd.models.utils.shapes import check_maps
from mmkd.registry import MODELS
from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class AttentionTransfer(DistillationLoss):
    """Squared distance of normalized attention maps, averaged over images.

    Zagoruyko and Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928): the attention
    of a map A (C x HW) is its activation, averaged over channels, as one vector of length 1:

        q = mean_c |A_c|^p,   loss = || q_t / ||q_t|| - q_s / ||q_s|| ||^2,   in [0, 2]

    The authors' code averages over the HW positions, too, and has weight 1000; summed, the value
    does not depend on the resolution and weight 1 is sensible. The networks may differ in channels.
    Attention vectors whose root mean square is below 1e-3 are divided by 1e-3 times sqrt(HW).

    Args:
        power: p.
    """

    any_channels: ClassVar[bool] = True

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        check_number(power, 'power')
        if power == 0:
            raise ConfigError('power: expected a positive number, got 0')
        self.power = power

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
            one, other = (self._attention(x, weight) for x in (target, source))
            return weighted_mean((one - other).square().sum(1), valid_images(weight))

    def _attention(self, x: Tensor, weight: Tensor | None) -> Tensor:
        attention = x.abs().pow(self.power).mean(1, keepdim=True)
        attention = weighted_map(attention, weight).squeeze(1)
        return F.normalize(attention, dim=1, eps=EPS * attention.shape[1] ** 0.5)
