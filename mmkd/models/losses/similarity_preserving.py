from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask, weighted_map
from mmkd.models.utils.normalize import EPS
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class SimilarityPreserving(DistillationLoss):
    """Squared distance of the similarities between the batch's images.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation" (arXiv 1907.09682): with the
    batch's features as rows of A (N x CHW),

        G = A A^T with rows to length 1,   loss = || G_t - G_s ||_F^2 / N,   in [0, 4]

    The paper divides by N^2, which makes the value shrink as the batch grows; hence its weight of
    3000. The networks may differ in channels and sizes. A is first divided by the length of its
    longest row, which does not change G; rows of G shorter than 1e-3 are then divided by that. A
    batch of one image has no similarities: the loss is 0. Each process compares its own images.
    """

    any_channels: ClassVar[bool] = True

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare features.

        Args:
            target: (N, C, H, W) or (N, C).
            source: (N, C', H', W') or (N, C').
            mask: Which positions of maps count and how much, see `apply_mask`.

        Returns:
            A scalar.

        Raises:
            ConfigError: If the numbers of images differ.
        """
        if len(target) != len(source):
            raise ConfigError(f'images differ: target {len(target)}, source {len(source)}')
        with torch.autocast(target.device.type, enabled=False):
            one, other = (self._similarities(x.float(), mask) for x in (target, source))
            return (one - other).square().sum(1).mean()

    @staticmethod
    def _similarities(x: Tensor, mask: Tensor | None) -> Tensor:
        x, _, weight = apply_mask(mask, x, x)
        rows = weighted_map(x, weight).flatten(1) if x.dim() == 4 else x
        # The scale of A does not change G, but keeps its squares in range.
        rows = rows / rows.norm(dim=1).amax().detach().clamp(min=EPS)
        return F.normalize(rows @ rows.T, dim=1, eps=EPS)
