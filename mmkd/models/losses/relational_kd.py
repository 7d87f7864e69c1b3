from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask
from mmkd.models.utils.normalize import EPS, shares_of
from mmkd.registry import MODELS
from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class RelationalKD(DistillationLoss):
    """Distances and angles between the batch's images, compared by the Huber loss.

    Park et al., "Relational Knowledge Distillation" (arXiv 1904.05068). With one vector x_i per
    image,

        loss = distance_weight mean_ij h(d_ij / mean d) + angle_weight mean_ijk h(cos angle_ijk)

    where h compares target and source by the Huber loss, d_ij = || x_i - x_j ||, and angle_ijk is
    the one at x_j between x_i and x_k. The paper has 25 and 50 for classification, 1 and 2
    otherwise. The mean distance is that of different images; one below 1e-3 is taken as that. The
    networks may differ in channels. Maps are averaged over their positions (mmkd's choice). Each
    process compares its own images; a batch of one image has no relations: the loss is 0.

    Args:
        distance_weight: Factor of the distances' part.
        angle_weight: Factor of the angles' part, whose cost grows with N^3.
    """

    any_channels: ClassVar[bool] = True

    def __init__(self, distance_weight: float = 1.0, angle_weight: float = 2.0) -> None:
        super().__init__()
        check_number(distance_weight, 'distance_weight')
        check_number(angle_weight, 'angle_weight')
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

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
            one, other = (_vectors(x.float(), mask) for x in (target, source))
            distance = F.smooth_l1_loss(_distances(one), _distances(other))
            loss = self.distance_weight * distance
            if self.angle_weight:
                loss = loss + self.angle_weight * F.smooth_l1_loss(_angles(one), _angles(other))
            return loss


def _vectors(x: Tensor, mask: Tensor | None) -> Tensor:
    """One vector per image (N, C): a map's mean over the positions that count."""
    if x.dim() != 4:
        return x
    x, _, weight = apply_mask(mask, x, x)
    return (x * shares_of(x, weight, over_batch=False)).sum((2, 3))


def _distances(x: Tensor) -> Tensor:
    """Distances between all images (N, N), those between different ones with mean 1."""
    # The clamp keeps the root's gradient finite where images agree.
    squares = (x.unsqueeze(0) - x.unsqueeze(1)).square().sum(-1)
    distances = squares.clamp(min=EPS**4).sqrt() * (squares > EPS**4)
    mean = distances.sum() / distances.gt(0).sum().clamp(min=1)
    return distances / mean.clamp(min=EPS)


def _angles(x: Tensor) -> Tensor:
    """Cosines of the angles at each image between two others (N, N, N)."""
    directions = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2, eps=EPS)
    return directions @ directions.mT
