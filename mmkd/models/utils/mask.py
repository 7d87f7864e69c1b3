import torch
import torch.nn.functional as F

from mmkd.utils.distributed import mean_over_ranks


def apply_mask(mask, target, source):
    """Bring a mask of labels to the taps' size and blank the positions that do not count.

    Args:
        mask (Tensor | None): (N, 1, H', W') of 0 and 1 at the labels' resolution. A position that covers several pixels
            counts by its share of valid ones, one over none of them not at all.
        target, source (Tensor): Maps (N, C, H, W).

    Returns:
        tuple: target and source, 0 where nothing counts, so that what stands there (infinities among it) reaches neither
        value nor gradient; and the weights (N, H, W), None without a mask or for other taps than maps.
    """
    if mask is None or target.dim() != 4:
        return target, source, None
    weight = F.adaptive_avg_pool2d(mask, target.shape[-2:])
    target, source = (torch.where(weight > 0, value, 0) for value in (target, source))
    return target, source, weight.squeeze(1)


def weighted_mean(values, weight=None):
    """Mean of values by their weights (of one shape), all alike without; 0 if nothing has weight.

    In a distributed training the sum of weights is its mean over the ranks: DDP's average of the ranks' gradients is then the
    gradient of the joint batch's weighted mean, however the weight is spread.
    """
    if weight is None:
        return values.mean()
    return (values * weight).sum() / mean_over_ranks(weight.sum()).clamp(
        min=torch.finfo(weight.dtype).tiny
    )
