from mmcv.cnn import ConvModule
from torch import nn

from mmkd.utils.errors import ConfigError

SLOPE = 0.1  # of the leaky rectifiers


def factor_convs(*channels):
    """Build 3x3 convolutions, each with batch norm and leaky rectifier, from channels[0] to channels[1] and so on."""
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
            for one, other in zip(channels, channels[1:])
        )
    )


class FactorEncoder(nn.Module):
    """Encoder of IE-KD (arXiv 2107.00181): leaky rectifier, then three 3x3 convolutions c -> c -> k -> k; the size is kept.

    Args:
        in_channels (int): c.
        factor_channels (int): k.
    """

    def __init__(self, in_channels, factor_channels):
        super().__init__()
        self.start = nn.LeakyReLU(SLOPE)
        self.convs = factor_convs(in_channels, in_channels, factor_channels, factor_channels)

    def forward(self, x):
        """Encode x (N, c, H, W) to a factor (N, k, H, W)."""
        if x.dim() != 4:
            raise ConfigError(f'factors are of maps (N, C, H, W), got {tuple(x.shape)}')
        return self.convs(self.start(x))
