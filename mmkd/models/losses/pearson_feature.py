import torch
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import all_count, total_over_ranks, weight_like
from mmkd.models.utils.normalize import StandardizedDistance
from mmkd.models.utils.shapes import check_same_shape
from mmkd.registry import MODELS


@MODELS.register_module()
class PearsonFeature(DistillationLoss):
    """Half the squared distance of standardized features: 1 - r, averaged over channels.

    PKD, Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson
    Correlation Coefficient" (arXiv 2207.02039): each channel is brought to mean 0 and standard
    deviation 1 over the batch's positions, then

        loss = mean (t - s)^2 / 2 = mean over channels of 1 - r(t, s),   in [0, 2]

    with r the Pearson correlation: networks whose features differ in scale and offset (other
    families, other norms) can be compared. Channels whose standard deviation is below 1e-3 are
    divided by that. Each process of a distributed training standardizes its own batch.
    """

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare features.

        Args:
            target: (N, C, H, W) or (N, C).
            source: Of the same shape.
            mask: Which positions of maps count, see `apply_mask`.

        Returns:
            A scalar.

        Raises:
            ConfigError: If the shapes differ.
        """
        check_same_shape(target, source)
        with torch.autocast(target.device.type, enabled=False):
            target, source = target.float(), source.float()
            if mask is None or target.dim() != 4:
                return StandardizedDistance.apply(target, source, None) / 2
            weight = weight_like(mask, target)
            # Of one rank among several: its part of the joint batch.
            part = weight.sum() / total_over_ranks(weight).clamp(min=torch.finfo(weight.dtype).tiny)
            counted = None if all_count(weight) else weight
            return part * StandardizedDistance.apply(target, source, counted) / 2
