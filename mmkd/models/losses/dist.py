import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.logits import check_mode, check_tau, resolve_mode
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.normalize import shares_of
from mmkd.models.utils.shapes import check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import check_number

SMALL = 1e-6  # probabilities that vary less have no correlation to speak of


@MODELS.register_module()
class DIST(DistillationLoss):
    """Correlation of the probabilities between the classes, and of each class between images.

    Huang et al., "Knowledge Distillation from A Stronger Teacher" (arXiv 2205.10536). With r the
    Pearson correlation of probabilities softened by tau,

        loss = tau^2 (inter_weight mean (1 - r_classes) + intra_weight mean (1 - r_images))

    the first at each position, the second for each class over all positions of the batch. Only
    relations are learned, so the target need not reach a stronger source's confidence. With fewer
    than three classes r over classes is 1 or -1 and is left out. A single position has no relation
    to others: that part is 0. Each process of a distributed training compares its own batch.

    Args:
        inter_weight: Factor of the relations between classes.
        intra_weight: Factor of the relations between images (and positions).
        tau: Temperature.
        mode: `softmax`, `sigmoid` (independent classes) or `auto`: `sigmoid` for one class,
            and in links where an image may have several labels.

    Raises:
        ConfigError: For wrong arguments, and logits whose shapes differ.
    """

    def __init__(
        self,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        tau: float = 1.0,
        mode: str = 'auto',
    ) -> None:
        super().__init__()
        check_number(inter_weight, 'inter_weight')
        check_number(intra_weight, 'intra_weight')
        self.inter_weight, self.intra_weight = inter_weight, intra_weight
        self.tau, self.mode = check_tau(tau), check_mode(mode)

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits.

        Args:
            target: (N, C) or (N, C, H, W).
            source: Of the same shape.
            mask: Which positions of maps count, see `apply_mask`.

        Returns:
            A scalar.
        """
        check_same_shape(target, source, 'logits')
        mode = resolve_mode(self.mode, target.shape[1])
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            share = shares_of(target, weight, over_batch=True)
            t, s = (
                x.sigmoid() if mode == 'sigmoid' else x.softmax(1)
                for x in (target / self.tau, source / self.tau)
            )
            loss = self.intra_weight * _between_positions(t, s, share)
            if t.shape[1] > 2:
                loss = loss + self.inter_weight * weighted_mean(_between_classes(t, s), weight)
            return loss * self.tau**2


def _between_classes(t: Tensor, s: Tensor) -> Tensor:
    """1 - r at each position, as half the squared distance of the standardized vectors."""
    t, s = (F.normalize(x - x.mean(1, keepdim=True), dim=1, eps=SMALL) for x in (t, s))
    return (t - s).square().sum(1) / 2


def _between_positions(t: Tensor, s: Tensor, share: Tensor) -> Tensor:
    """1 - r over the positions, averaged over classes."""
    rows = []
    for x in (t, s):
        x, weight = (y.movedim(1, 0).flatten(1) for y in (x, share))
        centered = x - (x * weight).sum(1, keepdim=True)
        rows.append(F.normalize(centered * weight.sqrt(), dim=1, eps=SMALL))
    return (rows[0] - rows[1]).square().sum(1).mean() / 2
