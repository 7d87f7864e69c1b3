from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask, know_totals, weighted_mean
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
            pooled = self._pooled_weights(weight, min(target.shape[-2:]))
            if weight is not None and get_world_size() > 1:
                # As many on all ranks, whatever the sizes of their maps.
                know_totals([weight, *(each for each in pooled if each is not None)])
            loss, factor, total = weighted_mean(difference.square().mean(1), weight), 1.0, 1.0
            if weight is not None:
                difference = difference * weight.unsqueeze(1)
            for size, counted in zip(self.sizes, pooled):
                if size >= min(target.shape[-2:]):
                    continue
                factor /= 2
                total += factor
                means = F.adaptive_avg_pool2d(difference, size)
                if counted is not None:
                    means = means / counted.unsqueeze(1).clamp(min=torch.finfo(means.dtype).tiny)
                loss = loss + factor * weighted_mean(means.square().mean(1), counted)
            return loss / total

    def _pooled_weights(self, weight: Tensor | None, own: int) -> list[Tensor | None]:
        """Return the weights (N, k, k) of each pooled size k; 0 where the map is no larger."""
        if weight is None:
            return [None for _ in self.sizes]
        maps, none = weight.unsqueeze(1), weight.new_zeros(1)
        return [
            F.adaptive_avg_pool2d(maps, size).squeeze(1) if size < own else none
            for size in self.sizes
        ]
