import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask
from mmkd.models.utils.normalize import EPS, shares_of
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class ChannelCorrelation(DistillationLoss):
    """Squared distance of the correlations between channels, averaged over images and pairs.

    Student-centric learning, Wang et al., "Student-Centric Network Learning for Improved Knowledge
    Transfer" (JISE 36(6), 2020), guides by correlations between channels and between locations
    (`SpatialCorrelation`). The forms are mmkd's choice: with the rows of a map A (C x HW) brought
    to mean square 1,

        G = A A^T / HW,   loss = || G_t - G_s ||_F^2 / C^2,   in [0, 4]

    so that G holds cosines and depends neither on scale nor on resolution. Rows whose root mean
    square is below 1e-3 are divided by that. Computed in float32, also under autocast.
    """

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare maps.

        Args:
            target: (N, C, H, W).
            source: (N, C, H', W').
            mask: Which positions count and how much, see `apply_mask`.

        Returns:
            A scalar.

        Raises:
            ConfigError: For vectors, and if the channels differ (a `ConvConnector` or a
                `ChannelSplit` as the link's connector brings them together).
        """
        if target.dim() != 4 or source.dim() != 4 or target.shape[:2] != source.shape[:2]:
            raise ConfigError(
                'maps with the same number of channels are compared: target '
                f'{tuple(target.shape)}, source {tuple(source.shape)}'
            )
        with torch.autocast(target.device.type, enabled=False):
            one, other = (self._correlation(x.float(), mask) for x in (target, source))
            return (one - other).square().mean()

    @staticmethod
    def _correlation(x: Tensor, mask: Tensor | None) -> Tensor:
        x, _, weight = apply_mask(mask, x, x)
        share = shares_of(x, weight, over_batch=False)
        rows = F.normalize((x * share.sqrt()).flatten(2), dim=2, eps=EPS)
        return rows @ rows.mT
