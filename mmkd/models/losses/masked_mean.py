import torch
import torch.nn.functional as F


def masked_mean(values, mask=None):
    """Mean of values (N, H, W) over the positions that count.

    Args:
        values (Tensor): One a position; without a mask of any shape.
        mask (Tensor, optional): (N, 1, H', W') of 0 and 1 at the labels' resolution. A position that covers several pixels
            counts by its share of valid ones, one over none of them not at all.

    Returns:
        Tensor: A scalar; 0 if no position counts.
    """
    if mask is None:
        return values.mean()
    weight = F.adaptive_avg_pool2d(mask, values.shape[-2:]).squeeze(1)
    # Whatever stands at positions without weight, infinities among it, stays out of value and gradient.
    values = torch.where(weight > 0, values, 0)
    return (values * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
