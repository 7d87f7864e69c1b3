import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.shapes import check_maps, check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer


@MODELS.register_module()
class AdversarialFeature(DistillationLoss):
    """Maps that a discriminator cannot tell from the source's (AFD, arXiv 2002.01775, ICML 2020).

    Chung et al., "Feature-map-level Online Adversarial Knowledge Distillation": the target has a
    discriminator D, which gives 1 for the source's map s and 0 for its own t; the target learns to
    fool it. With squared distances,

        loss = mean (1 - D'(t))^2  +  mean (1 - D(s))^2 + D(t')^2

    where ' cuts the gradient: the first part teaches the target alone, the rest the discriminator
    alone. So no position is compared with its like, which suits peers that both still learn. For
    more than two members the paper links them in a circle.

    D is trained with the target's optimizer; the link's factor scales its gradient, too. mmkd's
    choices are its form, three 3x3 convolutions and a sigmoid, with a score at each position and
    no batch norm, and that its input is the map after the connector.

    Args:
        out_channels: The source's channels, which the target's map has after the connector.
        channels: Width of the discriminator. Default: 64.
    """

    def __init__(self, out_channels: int, channels: int = 64) -> None:
        super().__init__()
        check_integer(out_channels, 'out_channels')
        check_integer(channels, 'channels')
        self.discriminator = nn.Sequential(
            nn.Conv2d(out_channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 1, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare maps.

        Args:
            target: (N, C, H, W).
            source: Of the same shape.
            mask: Which positions count, see `apply_mask`; the discriminator sees 0 at the others.

        Returns:
            A scalar.

        Raises:
            ConfigError: For vectors, and maps whose shapes differ.
        """
        check_maps(target, source)
        check_same_shape(target, source)
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.detach().float())
            fixed = {k: v.detach() for k, v in self.discriminator.named_parameters()}
            fooled = functional_call(self.discriminator, fixed, (target,)).squeeze(1)
            own = self.discriminator(target.detach()).squeeze(1)
            other = self.discriminator(source).squeeze(1)
            value = (1 - fooled).square() + (1 - other).square() + own.square()
            return weighted_mean(value, weight)
