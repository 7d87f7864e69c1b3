import torch
import torch.nn.functional as F
from torch import nn

from mmkd.models.utils.mask import apply_mask
from mmkd.models.utils.normalize import EPS
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class ChannelCorrelation(nn.Module):
    """Squared distance of the correlations between channels, averaged over images and pairs of channels.

    Student-centric learning, Wang et al., "Student-Centric Network Learning for Improved Knowledge Transfer" (JISE 36(6), 2020),
    guides by correlations between channels and between locations (`SpatialCorrelation`); the forms are mmkd's choice:

        G = A A^T / HW of a map A (C x HW), each row to mean square 1;   loss = || G_t - G_s ||_F^2 / C^2, in [0, 4]

    so that G holds cosines: scale-free, and independent of resolution. Rows of a mean square below 1e-6 are divided by its
    root as if it were that. Computed in float32, also under autocast.
    """

    def forward(self, target, source, mask=None):
        """Compare maps.

        Args:
            target, source (Tensor): (N, C, H, W) and (N, C, H', W').
            mask (Tensor, optional): Which positions count and how much, see `apply_mask`.

        Returns:
            Tensor: A scalar.

        Raises:
            ConfigError: If channels differ (an adapter or a `ChannelSplit` in the link's connector mends it), or for vectors.
        """
        if target.dim() != 4 or source.dim() != 4 or target.shape[:2] != source.shape[:2]:
            raise ConfigError(
                f'maps of as many channels are compared: target {tuple(target.shape)}, source {tuple(source.shape)}'
            )
        with torch.autocast(target.device.type, enabled=False):
            one, other = (self._correlation(x.float(), mask) for x in (target, source))
            return (one - other).square().mean()

    @staticmethod
    def _correlation(x, mask):
        x, _, weight = apply_mask(mask, x, x)
        weight = x.new_ones(x[:, 0].shape) if weight is None else weight
        share = weight / weight.sum((1, 2), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        rows = F.normalize((x * share.sqrt().unsqueeze(1)).flatten(2), dim=2, eps=EPS)
        return rows @ rows.mT
