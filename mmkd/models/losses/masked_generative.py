import torch
from torch import Tensor, nn

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.shapes import check_maps, check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer, check_number
from mmkd.utils.distributed import mean_over_ranks
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class MaskedGenerative(DistillationLoss):
    """The source's map, generated from the target's of which random positions are hidden.

    MGD, Yang et al., "Masked Generative Distillation" (arXiv 2205.01529): a generator G (3x3
    convolution, rectifier, 3x3 convolution), trained with the target's optimizer, rebuilds the
    source's map s from the target's t,

        loss = mean (G(t * visible) - s)^2 / mean s^2

    with positions hidden at the rate `ratio`, drawn anew in each training step (none in evaluation
    mode). The paper sums the squares per image and has weights from 2e-5 to 7e-5; divided by the
    source's mean square (mmkd's choice) the value is 1 for a generator that gives 0, so that weight
    1 is sensible for every network. A mean square below 1e-6 is taken as that. A `ConvConnector`
    with `norm_cfg=None` is the paper's alignment of channels.

    Args:
        out_channels: The source's channels, which the target's map has after the connector.
        ratio: Share of hidden positions, in [0, 1); the paper's lambda (0.65 for one-stage
            detectors, 0.45 for two-stage ones, 0.75 for segmenters).
    """

    def __init__(self, out_channels: int, ratio: float = 0.65) -> None:
        super().__init__()
        check_integer(out_channels, 'out_channels')
        check_number(ratio, 'ratio', most=1)
        if ratio == 1:
            raise ConfigError('ratio: expected a number in [0, 1), got 1: nothing would be visible')
        self.ratio = ratio
        self.generator = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare maps.

        Args:
            target: (N, C, H, W).
            source: Of the same shape.
            mask: Which positions count, see `apply_mask`; the generator sees 0 at the others.

        Returns:
            A scalar.

        Raises:
            ConfigError: For vectors, and maps whose shapes differ.
        """
        check_maps(target, source)
        check_same_shape(target, source)
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            if self.training:
                target = target * (torch.rand_like(target[:, :1]) >= self.ratio)
            scale = weighted_mean(source.square().mean(1), weight).detach()
            scale = mean_over_ranks(scale).clamp(min=EPS**2)  # else the ranks' weights cancel
            distance = (self.generator(target) - source).square().mean(1)
            return weighted_mean(distance, weight) / scale
