from torch import Tensor

from mmkd.models.connectors.base import Connector
from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS


@MODELS.register_module()
class ResizeConnector(Connector):
    """Bring a map to the other side's height and width; the channels must agree already."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """Resize x (N, C, H, W) to the size of `like` (N, C', H', W')."""
        return resize_like(x, like)
