from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.utils.once import once
from mmkd.utils.distributed import mean_over_ranks

# Attribute of weights whose sum over the ranks is known, see `know_totals`.
TOTAL = '_mmkd_total'


def apply_mask(
    mask: Tensor | None, target: Tensor, source: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Bring a mask of labels to the taps' size and set the positions that do not count to 0.

    Args:
        mask: (N, 1, H', W') of 0 and 1 at the labels' resolution, or None where all positions
            count. A position that covers several pixels counts by its share of valid ones.
        target: Map (N, C, H, W).
        source: Map (N, C, H, W).

    Returns:
        Target and source, 0 where nothing counts, so that values there (infinities among them)
        reach neither the loss nor the gradient; and the weights (N, H, W), None without a mask or
        for taps other than maps.
    """
    if mask is None or target.dim() != 4:
        return target, source, None
    weight = weight_like(mask, target)
    if all_count(weight):
        return target, source, weight
    counts = weight.unsqueeze(1) > 0
    masked = once(source, ('masked', mask), lambda: torch.where(counts, source, 0))
    return torch.where(counts, target, 0), masked, weight


def weight_like(mask: Tensor, x: Tensor) -> Tensor:
    """Return the weights (N, H, W) of a map's positions, see `apply_mask`.

    Args:
        mask: (N, 1, H', W').
        x: Map (N, C, H, W).
    """
    size = (x.shape[-2], x.shape[-1])
    return once(mask, ('weight', size), lambda: F.adaptive_avg_pool2d(mask, size).squeeze(1))


def all_count(weight: Tensor) -> bool:
    """Return whether all weights are known to be 1; elsewhere than on a CPU it is not asked for."""
    return weight.device.type == 'cpu' and once(weight, 'all', lambda: bool((weight == 1).all()))


def know_totals(weights: Sequence[Tensor]) -> None:
    """Sum several weights over the ranks at once, so that `total_over_ranks` need not.

    All ranks must give as many.
    """
    if not weights:
        return
    totals = mean_over_ranks(torch.stack([weight.sum() for weight in weights]))
    for weight, total in zip(weights, totals.unbind()):
        setattr(weight, TOTAL, total)


def total_over_ranks(weight: Tensor) -> Tensor:
    """Return the sum of a loss's weights, in distributed training its mean over the ranks."""
    known: Tensor | None = getattr(weight, TOTAL, None)
    return mean_over_ranks(weight.sum()) if known is None else known


def weighted_mean(
    values: Tensor, weight: Tensor | None = None, counted: Tensor | None = None
) -> Tensor:
    """Mean of values by their weights; 0 if nothing has weight.

    In distributed training the sum of weights is its mean over the ranks: DDP's average of the
    ranks' gradients is then the gradient of the joint batch's weighted mean, however the weight is
    spread over the ranks.

    Args:
        values: Of any shape.
        weight: Of the same shape; None where all values count alike.
        counted: Weights whose sum divides, of the same shape. Default: `weight`.

    Returns:
        A scalar.
    """
    if weight is None:
        return values.mean()
    total = total_over_ranks(weight if counted is None else counted)
    return (values * weight).sum() / total.clamp(min=torch.finfo(weight.dtype).tiny)


def valid_images(weight: Tensor | None) -> Tensor | None:
    """1 for each image with a position that counts, else 0: (N,) of weights (N, H, W)."""
    return None if weight is None else weight.flatten(1).gt(0).any(1).to(weight.dtype)


def weighted_map(x: Tensor, weight: Tensor | None) -> Tensor:
    """Flatten maps (N, C, H, W) to (N, C, HW) so that inner products weight the positions."""
    return x.flatten(2) if weight is None else (x * weight.sqrt().unsqueeze(1)).flatten(2)
