import torch.nn.functional as F
from torch import Tensor


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Bring maps (N, C, H, W) to the spatial size of `like`: average pooling down, bilinear up."""
    size = (like.shape[-2], like.shape[-1])
    if x.shape[-2:] == size:
        return x
    if size[0] <= x.shape[-2] and size[1] <= x.shape[-1]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)
