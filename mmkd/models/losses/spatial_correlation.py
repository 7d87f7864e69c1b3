from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.resize import resize_like
from mmkd.models.utils.shapes import check_maps
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class SpatialCorrelation(DistillationLoss):
    """Squared distance of the correlations between positions, averaged over images and pairs.

    The other half of student-centric learning (Wang et al., JISE 36(6), 2020, see
    `ChannelCorrelation`). The form is mmkd's choice: with the columns of a map A (C x HW) brought
    to mean square 1,

        G = A^T A / C,   loss = || G_t - G_s ||_F^2 / (HW)^2,   in [0, 4]

    The networks may differ in channels: `connector='auto'` adds no convolution. Maps are pooled
    first, since G has (HW)^2 entries. Columns whose root mean square is below 1e-3 are divided by
    that. Computed in float32, also under autocast.

    Args:
        max_size: Maps are pooled to at most this height and width.
    """

    any_channels: ClassVar[bool] = True

    def __init__(self, max_size: int = 32) -> None:
        super().__init__()
        self.max_size = check_integer(max_size, 'max_size')

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare maps.

        Args:
            target: (N, C, H, W), brought to the source's (pooled) size.
            source: (N, C', H', W').
            mask: Which positions count, see `apply_mask`; a pair counts by the product of its two
                weights.

        Returns:
            A scalar.

        Raises:
            ConfigError: For vectors, and for maps of one position, whose correlations are 1
                whatever they hold.
        """
        check_maps(target, source)
        height, width = (min(side, self.max_size) for side in source.shape[-2:])
        if height * width == 1:
            raise ConfigError(
                'maps of one position have no correlation between positions: tap an earlier layer'
            )
        with torch.autocast(target.device.type, enabled=False):
            source = resize_like(source.float(), source.new_empty(1, 1, height, width))
            target, source, weight = apply_mask(mask, resize_like(target.float(), source), source)
            one, other = (self._correlation(x) for x in (target, source))
            if weight is not None:
                weight = weight.flatten(1)
                weight = weight.unsqueeze(2) * weight.unsqueeze(1)
            return weighted_mean((one - other).square(), weight)

    @staticmethod
    def _correlation(x: Tensor) -> Tensor:
        columns = F.normalize(x.flatten(2) / x.shape[1] ** 0.5, dim=1, eps=EPS)
        return columns.mT @ columns
