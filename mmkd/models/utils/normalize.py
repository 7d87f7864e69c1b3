"""What the losses of normalized features share."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmkd.models.utils.once import is_compiling, once

# Vectors shorter than this are not stretched to length 1: the gradient of a norm grows without
# bound towards 0.
EPS = 1e-3
# Numbers that a CPU works on at once: 256 KiB of float32.
PIECE = 2**16


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
    """How each channel is standardized over the positions of a batch; all (C, 1).

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
        """Take the moments of x (N, C, P); `share` (N, 1, P) adds up to 1, None: all alike."""
        parts = [
            part.sum(2) if s is None else torch.where(s > 0, part, 0).mul_(s).sum(2)
            for part, s in pieces(x, share)
        ]
        mean = _over_images(parts, x, share)
        variance = _over_images(
            [square_sum(centered(part, mean, s)) for part, s in pieces(x, share)], x, share
        )
        scale = variance.clamp(min=EPS**2).rsqrt()
        return cls(mean, scale, variance * scale.square(), (variance >= EPS**2).to(x))


def pieces(*tensors: Tensor | None) -> Iterator[list[Any]]:
    """Cut a batch's tensors, all (N, ...), into parts whose copies stay in a CPU's cache.

    Not while torch.compile traces: the number of parts depends on the size, and each size would be
    a graph of its own.
    """
    first = tensors[0]
    assert first is not None
    count = len(first)
    if first.device.type == 'cpu' and not is_compiling():
        count = max(1, PIECE // max(first[0].numel(), 1))
    for start in range(0, len(first), count):
        yield [None if x is None else x[start : start + count] for x in tensors]


def _over_images(parts: list[Tensor], x: Tensor, share: Tensor | None) -> Tensor:
    """Return the mean (C, 1) of x's positions by their sums (n, C), one part after the other."""
    total = torch.cat(parts).sum(0).unsqueeze(1)
    return total / (x.shape[0] * x.shape[2]) if share is None else total


def centered(x: Tensor, mean: Tensor, share: Tensor | None) -> Tensor:
    """Return x (N, C, P) less its channels' means, times the root of `share`; a new tensor."""
    if share is None:
        return x - mean
    return torch.where(share > 0, x, mean).sub_(mean).mul_(share.sqrt())


def square_sum(x: Tensor) -> Tensor:
    """Return the sums of squares (N, C) of x (N, C, P)."""
    # Norms along the last dimension are much the fastest on CPUs.
    return torch.linalg.vector_norm(x, dim=2).square()


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
    def forward(ctx: Any, target: Tensor, source: Tensor, weight: Tensor | None) -> Tensor:
        """Compare.

        Args:
            ctx: torch's.
            target: (N, C, H, W) or (N, C), float32.
            source: Of the same shape.
            weight: (N, H, W), see `weight_like`; None where all positions count alike.
        """
        share = None
        if weight is not None:
            share = once(weight, 'share', lambda: shares_of(target, weight, True).flatten(2))
        t, s = flat(target), flat(source)
        own = Moments.of(t, share)
        other = once(source, ('moments', weight), lambda: Moments.of(s, share))
        parts = []
        for x, y, part in pieces(t, s, share):
            difference = centered(x, own.mean, part).mul_(own.scale)
            difference.sub_(centered(y, other.mean, part).mul_(other.scale))
            parts.append(square_sum(difference))
        distance = _over_images(parts, t, share)
        ctx.save_for_backward(target, source, share, distance, *own, *other)
        return distance.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both sides."""
        target, source, share, distance, *moments = ctx.saved_tensors
        own, other = Moments(*moments[:4]), Moments(*moments[4:])
        t, s = flat(target), flat(source)
        factor = 2 * grad / len(distance)
        factor = factor / (len(t) * t.shape[2]) if share is None else factor
        sides = ((t, own, s, other), (s, other, t, own))
        grads: list[Tensor | None] = [None, None]
        for index, (x, m, y, n) in enumerate(sides):
            if not ctx.needs_input_grad[index]:
                continue
            along = (m.square + distance - n.square) / 2  # mean of zx (zx - zy)
            of_own = factor * m.scale.square() * (1 - m.varies * along)
            of_other = -factor * m.scale * n.scale
            found = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            for out, own_part, other_part, part in pieces(found, x, y, share):
                torch.mul(centered(own_part, m.mean, part), of_own, out=out)
                out.addcmul_(centered(other_part, n.mean, part), of_other)
                if part is not None:
                    out.mul_(part.sqrt())
            grads[index] = found.view(target.shape)
        return (*grads, None)


class Lengths(NamedTuple):
    """How the vector of each position is brought to length 1; all (N, 1, P).

    Attributes:
        scale: One through the length, or through 1e-3 if that is larger.
        square: What the square of the length then is: 1, or less for short vectors.
        varies: 1 where the length is 1e-3 or more, else 0.
    """

    scale: Tensor
    square: Tensor
    varies: Tensor

    @classmethod
    def of(cls, x: Tensor) -> 'Lengths':
        """Take the lengths of x (N, C, P)."""
        square = torch.cat([part.square().sum(1, keepdim=True) for (part,) in pieces(x)])
        scale = square.clamp(min=EPS**2).rsqrt()
        return cls(scale, square * scale.square(), (square >= EPS**2).to(x))


class NormalizedDistance(torch.autograd.Function):
    """Squared distance of the vectors of each position after both are brought to length 1.

    Vectors shorter than 1e-3 are divided by that. As `StandardizedDistance` in few passes: with the
    normalized vectors nt, ns

        dL/dt = 2 scale (nt - ns - nt (nt . (nt - ns)))

    the last term only of vectors of length 1. Nothing but the inputs is kept for it, and a number a
    position.
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, source: Tensor) -> Tensor:
        """Compare.

        Args:
            ctx: torch's.
            target: (N, C, H, W) or (N, C), float32.
            source: Of the same shape.

        Returns:
            (N, H, W) or (N,).
        """
        t, s = flat(target), flat(source)
        own, other = Lengths.of(t), once(source, 'lengths', lambda: Lengths.of(s))
        parts = []
        for x, y, a, b in pieces(t, s, own.scale, other.scale):
            difference = (x * a).sub_(y * b)
            parts.append(difference.square_().sum(1, keepdim=True))
        distance = torch.cat(parts)
        ctx.save_for_backward(target, source, distance, *own, *other)
        return distance.view(target.shape[:1] + target.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both sides."""
        target, source, distance, *lengths = ctx.saved_tensors
        own, other = Lengths(*lengths[:3]), Lengths(*lengths[3:])
        t, s = flat(target), flat(source)
        factor = 2 * grad.reshape(distance.shape)
        grads: list[Tensor | None] = [None, None]
        for index, (x, m, y, n) in enumerate(((t, own, s, other), (s, other, t, own))):
            if not ctx.needs_input_grad[index]:
                continue
            along = (m.square + distance - n.square) / 2  # nx . (nx - ny)
            of_own = factor * m.scale.square() * (1 - m.varies * along)
            of_other = factor * m.scale * n.scale
            found = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            for out, own_part, other_part, a, b in pieces(found, x, y, of_own, of_other):
                torch.mul(own_part, a, out=out)
                out.sub_(other_part * b)
            grads[index] = found.view(target.shape)
        return tuple(grads)


def flat(x: Tensor) -> Tensor:
    """Return maps (N, C, H, W) or vectors (N, C) as (N, C, P)."""
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
