"""What the losses of normalized features share."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmkd.models.utils.once import once

# Vectors shorter than this are not stretched to length 1: the gradient of a norm grows without
# bound towards 0.
EPS = 1e-3


def shares_of(x: Tensor, weight: Tensor | None, over_batch: bool) -> Tensor:
    """Each position's share of the weight: of its image's, or of the whole batch's.

    Args:
        x: Maps (N, C, H, W) or vectors (N, C).
        weight: (N, H, W), or None where all positions of x count alike.
        over_batch: Whether the shares of the batch add up to 1, not those of each image.

    Returns:
        Of shape (N, 1, H, W) or (N, 1); all 0 where nothing has weight.
    """
    weight = torch.ones_like(x[:, :1]) if weight is None else weight.unsqueeze(1)
    dims = tuple(range(x.dim())) if over_batch else tuple(range(2, x.dim()))
    total = weight.sum(dims, keepdim=True) if dims else weight
    return weight / total.clamp(min=torch.finfo(weight.dtype).tiny)


class Moments(NamedTuple):
    """How each channel is standardized over the positions of a batch; all (1, C, 1, ...).

    Attributes:
        mean: Over the positions that count.
        scale: One through the standard deviation, or through 1e-3 if that is larger.
        square: What the mean square then is: 1, or less for channels that hardly vary.
        varies: 1 where the standard deviation is 1e-3 or more, else 0.
    """

    mean: Tensor
    scale: Tensor
    square: Tensor
    varies: Tensor

    @classmethod
    def of(cls, x: Tensor, share: Tensor | None) -> 'Moments':
        """Take the moments of x (N, C, ...); `share` (N, 1, ...) adds up to 1, None: all alike."""
        dims = tuple(d for d in range(x.dim()) if d != 1)
        if share is None:
            mean = x.mean(dims, keepdim=True)
            norm = torch.linalg.vector_norm(x - mean, dim=dims, keepdim=True)
            variance = norm.square() / (x.numel() / x.shape[1])
        else:
            mean = (x * share).sum(dims, keepdim=True)
            variance = ((x - mean).square_() * share).sum(dims, keepdim=True)
        scale = variance.clamp(min=EPS**2).rsqrt()
        return cls(mean, scale, variance * scale.square(), (variance >= EPS**2).to(x))


class StandardizedDistance(torch.autograd.Function):
    """Mean over channels and positions of the squared distance of standardized features.

    Each channel is brought to mean 0 and standard deviation 1 over the batch's positions; one whose
    standard deviation is below 1e-3 is divided by that. In a fraction of the passes over memory
    that single operations take: the gradient at a target t with the standardized values zt, zs of n
    positions is, as for batch norm,

        dL/dt = 2 / (C n) scale (zt - zs - zt mean(zt (zt - zs)))

    the last term only in channels that vary. Nothing but the inputs is kept for it.
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, source: Tensor, share: Tensor | None) -> Tensor:
        """Compare.

        Args:
            ctx: torch's.
            target: (N, C, H, W) or (N, C), float32.
            source: Of the same shape.
            share: (N, 1, H, W), see `shares_of`; None where all positions count alike.
        """
        own = Moments.of(target, share)
        other = once(source, ('moments', share), lambda: Moments.of(source, share))
        difference = (target - own.mean).mul_(own.scale)
        difference.sub_((source - other.mean).mul_(other.scale))
        dims = tuple(d for d in range(target.dim()) if d != 1)
        if share is None:
            norm = torch.linalg.vector_norm(difference, dim=dims, keepdim=True)
            distance = norm.square() / (target.numel() / target.shape[1])
        else:
            distance = (difference.square_() * share).sum(dims, keepdim=True)
        ctx.save_for_backward(target, source, share, distance, *own, *other)
        return distance.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both sides."""
        target, source, share, distance, *moments = ctx.saved_tensors
        own, other = Moments(*moments[:4]), Moments(*moments[4:])
        factor = 2 * grad / (target.numel() if share is None else target.shape[1])
        sides = ((target, own, source, other), (source, other, target, own))
        grads: list[Tensor | None] = [None, None]
        for index, (x, m, y, n) in enumerate(sides):
            if not ctx.needs_input_grad[index]:
                continue
            along = (m.square + distance - n.square) / 2  # mean of zx (zx - zy)
            grads[index] = (x - m.mean).mul_(factor * m.scale.square() * (1 - m.varies * along))
            grads[index].addcmul_(y - n.mean, -factor * m.scale * n.scale)
            if share is not None:
                grads[index].mul_(share)
        return (*grads, None)
