import torch
import torch.nn.functional as F
from torch import nn

from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class SpatialCorrelation(nn.Module):
    """Squared distance of the correlations between positions, averaged over images and pairs of positions.

    The other half of student-centric learning (Wang et al., JISE 36(6), 2020, see `ChannelCorrelation`); the form is mmkd's:

        G = A^T A / C of a map A (C x HW), each column to mean square 1;   loss = || G_t - G_s ||_F^2 / (HW)^2, in [0, 4]

    The networks may differ in channels: `connector='auto'` makes no adapter for this loss. Maps are pooled first, for G's size
    is (HW)^2. Columns of a mean square below 1e-6 are divided by its root as if it were that. Computed in float32, also under
    autocast.

    Args:
        max_size (int): Maps are pooled to at most that height and width. Default: 32.
    """

    any_channels = True

    def __init__(self, max_size=32):
        super().__init__()
        if not isinstance(max_size, int) or max_size < 1:
            raise ConfigError(f'max_size: expected 1 or more, got {max_size!r}')
        self.max_size = max_size

    def forward(self, target, source, mask=None):
        """Compare maps.

        Args:
            target, source (Tensor): (N, C, H, W) and (N, C', H', W'); the target is brought to the source's (pooled) size.
            mask (Tensor, optional): Which positions count, see `apply_mask`; a pair counts by the product of its two.

        Returns:
            Tensor: A scalar.

        Raises:
            ConfigError: For vectors, and for maps of one position, whose correlations are 1 whatever they hold.
        """
        if target.dim() != 4 or source.dim() != 4:
            raise ConfigError(
                f'maps (N, C, H, W) are compared, got {tuple(target.shape)} and {tuple(source.shape)}'
            )
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
    def _correlation(x):
        columns = F.normalize(x.flatten(2) / x.shape[1] ** 0.5, dim=1, eps=EPS)
        return columns.mT @ columns
