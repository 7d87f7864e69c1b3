from typing import Any

from mmcv.cnn import ConvModule
from torch import Tensor

from mmkd.models.connectors.base import Connector
from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class ConvConnector(Connector):
    """Bring a map to the other side's channels by a convolution and a norm, then to its size.

    The 1x1 adapter on the receiver's side of arXiv 2212.02931 (and of FitNets, arXiv 1412.6550).
    The norm is mmkd's choice; without it (`norm_cfg=None`) the convolution has a bias.

    Args:
        in_channels: The channels of its own side; filled in by the link.
        out_channels: The channels of the other side; filled in by the link.
        kernel_size: Odd.
        norm_cfg: Config of the norm, or None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        norm_cfg: dict[str, Any] | None = dict(type='BN'),  # noqa: B006  # only read
    ) -> None:
        super().__init__()
        if kernel_size % 2 != 1:
            raise ConfigError(f'kernel_size: expected an odd number, got {kernel_size}')
        self.conv = ConvModule(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            norm_cfg=norm_cfg,
            act_cfg=None,
        )

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """Convert a map, or a vector as a map of one position.

        Args:
            x: (N, in_channels, H, W) or (N, in_channels).
            like: (N, out_channels, H', W') or (N, out_channels).

        Returns:
            Of the shape of `like`.
        """
        if x.dim() == 2:
            return self.conv(x[..., None, None]).flatten(1)
        return resize_like(self.conv(x), like)
