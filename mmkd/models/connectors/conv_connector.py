from mmcv.cnn import ConvModule
from torch import nn

from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class ConvConnector(nn.Module):
    """Bring the target's map to the source's channels by a convolution and a norm, then to its size.

    The 1x1 adapter on the receiver's side of arXiv 2212.02931 (and of FitNets, arXiv 1412.6550); the norm is mmkd's choice.
    Trained with the target's optimiser, left behind at export.

    Args:
        in_channels (int): The target's channels; filled in by the link.
        out_channels (int): The source's channels; filled in by the link.
        kernel_size (int): Odd. Default: 1.
        norm_cfg (dict, optional): Config of the norm. Default: BN.
    """

    needs_channels = True

    def __init__(self, in_channels, out_channels, kernel_size=1, norm_cfg=dict(type='BN')):
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

    def forward(self, x, like):
        """Convert x (N, in_channels, H, W) to (N, out_channels, H', W') of `like`; vectors (N, C) are maps of one position."""
        if x.dim() == 2:
            return self.conv(x[..., None, None]).flatten(1)
        return resize_like(self.conv(x), like)
