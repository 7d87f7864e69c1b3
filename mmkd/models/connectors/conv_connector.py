from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmkd.models.connectors.base import Connector
from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError
from mmkd.utils.original_stack import autocast_enabled


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
        return resize_like(self._folded(x) if self._folds(x) else self.conv(x), like)

    def _folds(self, x: Tensor) -> bool:
        """Whether the batch norm is computed with the convolution: narrow inputs, in training."""
        norm, (out_channels, in_channels, size, _) = self.conv.norm, self.conv.conv.weight.shape
        return (
            type(norm) is nn.BatchNorm2d
            and norm.training
            and norm.track_running_stats
            and norm.affine
            and norm.momentum is not None
            and size == 1
            and in_channels**2 <= 32 * out_channels  # else the covariance costs more than it saves
            and x.numel() > x.shape[1]  # torch refuses one value per channel
            and x.dtype == torch.float32
            and not autocast_enabled(x.device.type)
        )

    def _folded(self, x: Tensor) -> Tensor:
        """Convolve and normalize in one product, the variances by the covariance of the input.

        What comes out, and every gradient, is that of both one after the other, without their
        passes over the maps of many channels.
        """
        norm: Any = self.conv.norm
        weight = self.conv.conv.weight.flatten(1)
        maps = x.flatten(2)
        mean = maps.mean(2).mean(0)
        maps = maps - mean.unsqueeze(1)
        count = maps.shape[0] * maps.shape[2]
        covariance = torch.bmm(maps, maps.mT).sum(0) / count
        variance = ((weight @ covariance) * weight).sum(1).clamp(min=0)  # rounding may go below
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(weight @ mean, norm.momentum)
            norm.running_var.lerp_(variance * count / max(count - 1, 1), norm.momentum)
        scaled = (norm.weight * (variance + norm.eps).rsqrt()).unsqueeze(1) * weight
        found = torch.baddbmm(norm.bias[None, :, None], scaled.expand(len(maps), -1, -1), maps)
        return found.unflatten(2, x.shape[2:])
