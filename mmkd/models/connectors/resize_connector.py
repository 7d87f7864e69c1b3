from torch import nn

from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS


@MODELS.register_module()
class ResizeConnector(nn.Module):
    """Bring the target's map to the source's height and width; the channels must agree already."""

    def forward(self, x, like):
        """Resize x (N, C, H, W) to the size of `like` (N, C', H', W')."""
        return resize_like(x, like)
