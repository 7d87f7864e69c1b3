import torch
import torch.nn.functional as F
from torch import nn

from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.normalize import EPS
from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class FeatureMSE(nn.Module):
    """Squared distance of normalised feature maps, averaged over images and positions.

    loss = mean || t/||t|| - s/||s|| ||^2, in [0, 4]. Feature sharing by a distance of normalised maps is that of Niyaz et al.
    (arXiv 2212.02931); which normalisation is open there. mmkd's choice is the channel vector at each position: scale-free,
    and independent of resolution and of the number of channels. Computed in float32, also under autocast.

    Args:
        normalize (str): `channel` (each position's vector to length 1), `spatial` (each channel's map to mean square 1; the
            distance is then averaged over channels too) or `none` (plain mean squared error). Vectors shorter than 1e-3 are
            divided by that. Default: `channel`.
    """

    def __init__(self, normalize='channel'):
        super().__init__()
        self.normalize = choose(normalize, ('channel', 'spatial', 'none'), 'normalize')

    def forward(self, target, source, mask=None):
        """Compare features.

        Args:
            target, source (Tensor): Of one shape, (N, C, H, W) or (N, C).
            mask (Tensor, optional): Which positions count, see `apply_mask`; for maps alone.

        Returns:
            Tensor: A scalar.

        Raises:
            ConfigError: If the shapes differ, or for vectors in `spatial` form.
        """
        if self.normalize == 'spatial' and target.dim() != 4:
            raise ConfigError(
                f"normalize='spatial' is for maps (N, C, H, W), got {tuple(target.shape)}"
            )
        if target.shape != source.shape:
            raise ConfigError(
                f'features differ in shape: target {tuple(target.shape)}, source {tuple(source.shape)}'
            )
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            if self.normalize == 'channel':
                distance = (
                    (F.normalize(target, dim=1, eps=EPS) - F.normalize(source, dim=1, eps=EPS))
                    .square()
                    .sum(1)
                )
            else:
                if self.normalize == 'spatial':
                    target, source = (
                        F.normalize(x.flatten(2), dim=2, eps=EPS).view_as(x)
                        * x[0, 0].numel() ** 0.5
                        for x in (target, source)
                    )
                distance = (target - source).square().mean(1)
            return weighted_mean(distance, weight)
