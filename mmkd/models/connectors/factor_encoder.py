from itertools import pairwise

from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmkd.utils.errors import ConfigError

SLOPE = 0.1  # of the leaky rectifiers


def factor_convs(*channels: int) -> nn.Sequential:
    """Build 3x3 convolutions, each with batch norm and leaky rectifier, between `channels`."""
    return nn.Sequential(
        *(
            ConvModule(
                one,
                other,
                3,
                padding=1,
                norm_cfg=dict(type='BN'),
                act_cfg=dict(type='LeakyReLU', negative_slope=SLOPE),
            )
            for one, other in pairwise(channels)
        )
    )


class FactorEncoder(nn.Module):
    """Encoder of IE-KD (arXiv 2107.00181): leaky rectifier, then convolutions c -> c -> k -> k.

    The convolutions are 3x3; the size of the map is kept.

    Args:
        in_channels: c.
        factor_channels: k.
    """

    def __init__(self, in_channels: int, factor_channels: int) -> None:
        super().__init__()
        self.start = nn.LeakyReLU(SLOPE)
        self.convs = factor_convs(in_channels, in_channels, factor_channels, factor_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x (N, c, H, W) to a factor (N, k, H, W)."""
        if x.dim() != 4:
            raise ConfigError(f'factors are of maps (N, C, H, W), got {tuple(x.shape)}')
        return self.convs(self.start(x))
