import torch.nn.functional as F
from torch import nn

from mmkd.registry import MODELS


def resize_like(x, like):
    """Bring maps (N, C, H, W) to the spatial size of `like`: average pooling down, bilinear up."""
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    if size[0] <= x.shape[-2] and size[1] <= x.shape[-1]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


@MODELS.register_module()
class ResizeConnector(nn.Module):
    """Bring the target's map to the source's height and width; the channels must agree already."""

    def forward(self, x, like):
        """Resize x (N, C, H, W) to the size of `like` (N, C', H', W')."""
        return resize_like(x, like)
