import torch
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.logits import NOWHERE, categorical_kl, check_tau, not_negative
from mmkd.models.utils.mask import apply_mask, valid_images, weighted_mean
from mmkd.models.utils.shapes import check_maps, check_same_shape
from mmkd.registry import MODELS


@MODELS.register_module()
class ChannelWise(DistillationLoss):
    """tau^2 KL(source || target) of each channel's softmax over the positions.

    CWD, Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction" (arXiv 2011.13256):
    a channel of H x W values is a distribution over the positions, softened by tau; the divergences
    are averaged over images and channels. For feature maps and for maps of logits. The paper has
    tau 4 and weights 50 (features) and 3 (logits) for segmentation.

    Args:
        tau: Temperature.

    Raises:
        ConfigError: For wrong arguments, vectors, and maps whose shapes differ.
    """

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        self.tau = check_tau(tau)

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare maps.

        Args:
            target: (N, C, H, W).
            source: Of the same shape.
            mask: Which positions count and how much, see `apply_mask`; images without any are left
                out.

        Returns:
            A scalar.
        """
        check_maps(target, source)
        check_same_shape(target, source)
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            target, source = (x.flatten(2) / self.tau for x in (target, source))
            images = valid_images(weight)
            if weight is not None:
                weight = weight.flatten(1).unsqueeze(1)
                bias = weight.log().clamp(min=NOWHERE)
                target, source = target + bias, source + bias
            divergence = categorical_kl(target, source, dim=2).mean(1)
            return not_negative(weighted_mean(divergence, images)) * self.tau**2
