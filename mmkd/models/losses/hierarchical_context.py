from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.shapes import check_maps, check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class HierarchicalContext(DistillationLoss):
    """Mean squared error of maps and of their pooled forms, each coarser one with half the weight.

    The loss (HCL) of ReviewKD, Chen et al., "Distilling Knowledge via Knowledge Review" (arXiv
    2104.09044): with P_k pooling to k x k, and only sizes below the map's own,

        loss = (MSE(t, s) + 1/2 MSE(P_4 t, P_4 s) + 1/4 MSE(P_2) + 1/8 MSE(P_1)) / (1 + 1/2 + ...)

    The fusion of several levels (ABF) is not part of it. Its value has the square of the features'
    scale; put an `AffineFreeNorm` on both sides for one that has not.

    Args:
        sizes: The pooled sizes, the finest first.
    """

    def __init__(self, sizes: Sequence[int] = (4, 2, 1)) -> None:
        super().__init__()
        if not isinstance(sizes, (list, tuple)):
            raise ConfigError(f'sizes: expected a list of sizes, got {sizes!r}')
        self.sizes = [check_integer(size, 'sizes') for size in sizes]

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare maps.

        Args:
            target: (N, C, H, W).
            source: Of the same shape.
            mask: Which positions count, see `apply_mask`.

        Returns:
            A scalar.

        Raises:
            ConfigError: For vectors, and maps whose shapes differ.
        """
        check_maps(target, source)
        check_same_shape(target, source)
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            difference = target - source
            weight = torch.ones_like(difference[:, 0]) if weight is None else weight
            loss, factor, total = self._mean_square(difference, weight), 1.0, 1.0
            for size in self.sizes:
                if size >= min(target.shape[-2:]):
                    continue
                factor /= 2
                total += factor
                pooled = F.adaptive_avg_pool2d(weight.unsqueeze(1), size)
                tiny = torch.finfo(pooled.dtype).tiny
                means = F.adaptive_avg_pool2d(difference * weight.unsqueeze(1), size)
                means = means / pooled.clamp(min=tiny)
                loss = loss + factor * self._mean_square(means, pooled.squeeze(1))
            return loss / total

    @staticmethod
    def _mean_square(difference: Tensor, weight: Tensor) -> Tensor:
        return weighted_mean(difference.square().mean(1), weight)
