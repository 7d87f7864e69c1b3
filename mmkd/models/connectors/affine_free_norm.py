import torch
from torch import Tensor

from mmkd.models.connectors.base import Connector
from mmkd.registry import MODELS
from mmkd.utils.checks import check_number


@MODELS.register_module()
class AffineFreeNorm(Connector):
    """Batch norm without weights and running statistics: each channel to mean 0 and variance 1.

    As `BatchNorm(affine=False, track_running_stats=False)`: the statistics are those of the batch,
    in training and in evaluation. RTMDet's distillation in MMYOLO has it on both sides of the link,
    after a convolution without norm on the target's:

        connector=[dict(type='ConvConnector', norm_cfg=None), dict(type='AffineFreeNorm')],
        source_connector=dict(type='AffineFreeNorm'),
        loss=dict(type='ChannelWise')

    Computed in float32, also under autocast. A channel with a single value becomes 0. Each process
    of a distributed training has the statistics of its own batch.

    Args:
        eps: Added to the variance.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        check_number(eps, 'eps')
        self.eps = eps

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Normalize x (N, C, H, W) or (N, C) over all dimensions but the channels'."""
        dims = tuple(d for d in range(x.dim()) if d != 1)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            centered = x - x.mean(dims, keepdim=True)
            return centered * (centered.square().mean(dims, keepdim=True) + self.eps).rsqrt()
