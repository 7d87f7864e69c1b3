"""What the losses of normalized features share."""

import torch
from torch import Tensor

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


def standardize_channels(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Bring each channel to mean 0 and standard deviation 1 over the batch's positions.

    Channels whose standard deviation is below 1e-3 are divided by that.

    Args:
        x: Maps (N, C, H, W) or vectors (N, C), in float32.
        weight: (N, H, W), see `apply_mask`; None where all positions count alike.
    """
    share = shares_of(x, weight, over_batch=True)
    dims = tuple(d for d in range(x.dim()) if d != 1)
    centered = x - (x * share).sum(dims, keepdim=True)
    variance = (centered.square() * share).sum(dims, keepdim=True)
    return centered * variance.clamp(min=EPS**2).rsqrt()
