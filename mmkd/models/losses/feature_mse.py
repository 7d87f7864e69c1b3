import torch
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.normalize import EPS, NormalizedDistance, shares_of
from mmkd.models.utils.shapes import check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class FeatureMSE(DistillationLoss):
    """Squared distance of normalized features, averaged over images and positions.

        loss = mean || t/||t|| - s/||s|| ||^2,   in [0, 4]

    Feature sharing by a distance of normalized maps is that of Niyaz et al. (arXiv 2212.02931),
    who leave open which normalization. mmkd's choice is the channel vector at each position: it
    does not depend on scale, resolution or the number of channels. Computed in float32, also under
    autocast.

    Args:
        normalize: `channel` (the vector at each position to length 1), `spatial` (each channel's
            map to mean square 1 over the positions that count; the distance is then averaged over
            channels too) or `none` (plain mean squared error). Lengths and root mean squares below
            1e-3 are not stretched: the vector is divided by 1e-3.
    """

    def __init__(self, normalize: str = 'channel') -> None:
        super().__init__()
        self.normalize = choose(normalize, ('channel', 'spatial', 'none'), 'normalize')

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare features.

        Args:
            target: (N, C, H, W) or (N, C).
            source: Of the same shape.
            mask: Which positions of maps count, see `apply_mask`.

        Returns:
            A scalar.

        Raises:
            ConfigError: If the shapes differ, or for vectors with `normalize='spatial'`.
        """
        if self.normalize == 'spatial' and target.dim() != 4:
            raise ConfigError(
                f"normalize='spatial' is for maps (N, C, H, W), got {tuple(target.shape)}"
            )
        check_same_shape(target, source)
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            if self.normalize == 'channel':
                return weighted_mean(NormalizedDistance.apply(target, source), weight)
            if self.normalize == 'spatial':
                share = shares_of(target, weight, over_batch=False)
                target, source = (_spatially(x, share) for x in (target, source))
            return weighted_mean((target - source).square().mean(1), weight)


def _spatially(x: Tensor, share: Tensor) -> Tensor:
    """Bring each channel's map to mean square 1."""
    mean_square = (x.square() * share).sum((2, 3), keepdim=True)
    return x * mean_square.clamp(min=EPS**2).rsqrt()
