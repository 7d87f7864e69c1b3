from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.logits import bernoulli_kl, check_tau, log_joint, not_negative
from mmkd.models.utils.mask import total_over_ranks
from mmkd.models.utils.once import once
from mmkd.registry import MODELS
from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError

if TYPE_CHECKING:
    from mmkd.tasks.detection.structures import DensePrediction

TINY = torch.finfo(torch.float32).tiny


@MODELS.register_module()
class DenseDetectionLoss(DistillationLoss):
    """Distance of two dense detectors' predictions, position by position on their common grid.

    With w the source's score (best class times objectness) at each of the P positions of all
    levels,

        loss = class_weight C + objectness_weight O + box_weight B
        C = sum w k_cls / sum w + background_weight mean k_cls     (O alike, with k_obj)
        B = sum w (1 - GIoU) / sum w

    where k_cls is tau^2 times the binary divergences KL(source || target) summed over classes, and
    k_obj that of the objectness. Weighting by the source's confidence keeps the background, nearly
    all positions, from drowning the rest, as in other dense distillation (e.g. CrossKD, arXiv
    2306.11369; LD, arXiv 2102.12252). arXiv 2110.11023 leaves open how dense detections are
    matched: this form is mmkd's choice, and so is `background_weight`, without which nothing would
    push down a target's score where the source sees nothing.

    Between a head with objectness and one without (YOLOX and RTMDet) the joint probability class x
    objectness is compared, in log space and without temperature.

    B lies in [0, 2]. A target's inverted box (heads that predict distances can give one) overlaps
    nothing: it is never at less than distance 1. A source's inverted or empty
    box teaches nothing, and neither do boxes that are not finite (YOLOX's exponent, early in
    training) or beyond 1e6 pixels: such positions are left out of B, without a gradient.

    Computed in float32, also under autocast. In distributed training sum w is its mean over the
    ranks, so that DDP's averaged gradients are those of the joint batch (a rank's own value then
    differs from the joint one).

    Args:
        tau: Temperature of the class and objectness terms.
        class_weight: Factor of C.
        objectness_weight: Factor of O.
        box_weight: Factor of B.
        background_weight: Factor of the plain mean over positions in C and O.
        iou: `iou` or `giou`.
    """

    def __init__(
        self,
        tau: float = 1.0,
        class_weight: float = 1.0,
        objectness_weight: float = 1.0,
        box_weight: float = 1.0,
        background_weight: float = 1.0,
        iou: str = 'giou',
    ) -> None:
        super().__init__()
        self.tau, self.iou = check_tau(tau), choose(iou, ('iou', 'giou'), 'iou')
        check_number(class_weight, 'class_weight')
        check_number(objectness_weight, 'objectness_weight')
        check_number(box_weight, 'box_weight')
        check_number(background_weight, 'background_weight')
        self.class_weight, self.objectness_weight = class_weight, objectness_weight
        self.box_weight, self.background_weight = box_weight, background_weight

    def forward(self, target: 'DensePrediction', source: 'DensePrediction') -> Tensor:
        """Compare predictions.

        Args:
            target: The target's `DensePrediction`.
            source: The source's, with the same positions and classes.

        Returns:
            A scalar.

        Raises:
            ConfigError: If they differ in positions or classes.
        """
        if target.cls_logits.shape != source.cls_logits.shape:
            raise ConfigError(
                f'predictions differ in positions or classes: target {target}, source {source}'
            )
        with torch.autocast(target.boxes.device.type, enabled=False):
            weight = _scores(source)
            weight = weight / total_over_ranks(weight).clamp(min=TINY)
            classes, objectness = self._divergences(target, source)
            loss = self.class_weight * self._mean(classes, weight)
            if objectness is not None:
                loss = loss + self.objectness_weight * self._mean(objectness, weight)
            return not_negative(loss) + self.box_weight * self._box_term(
                target.boxes, source.boxes, weight
            )

    def summed_weights(self, source: Any, mask: Tensor | None) -> list[Tensor]:
        """Return the source's scores, where it is on a grid of its own."""
        return [_scores(source)] if hasattr(source, 'scores') else []

    def _mean(self, values: Tensor, weight: Tensor) -> Tensor:
        return (values * weight).sum() + self.background_weight * values.mean()

    def _divergences(
        self, target: 'DensePrediction', source: 'DensePrediction'
    ) -> tuple[Tensor, Tensor | None]:
        t, s = target.cls_logits.float(), source.cls_logits.float()
        if target.obj_logits is not None and source.obj_logits is not None:
            t_obj, s_obj = target.obj_logits.float(), source.obj_logits.float()
            return self._divergence(t, s).sum(-1), self._divergence(t_obj, s_obj)
        if target.obj_logits is None and source.obj_logits is None:
            return self._divergence(t, s).sum(-1), None
        log_t, log_not_t = log_joint(t, target.obj_logits)
        log_s, log_not_s = log_joint(s, source.obj_logits)
        joint = log_s.exp() * (log_s - log_t) + log_not_s.exp() * (log_not_s - log_not_t)
        return joint.sum(-1), None

    def _divergence(self, target: Tensor, source: Tensor) -> Tensor:
        if self.tau == 1:  # no copies
            return bernoulli_kl(target, source)
        return bernoulli_kl(target / self.tau, source / self.tau) * self.tau**2

    def _box_term(self, target: Tensor, source: Tensor, weight: Tensor) -> Tensor:
        target, source = target.float(), source.float()
        # Areas of boxes beyond 1e6 pixels overflow in sums; such predictions teach nothing.
        usable = ((target.abs() < 1e6) & (source.abs() < 1e6)).all(-1)
        usable = usable & (source[..., 2:] > source[..., :2]).all(-1)
        unit = target.new_tensor([0.0, 0.0, 1.0, 1.0])
        target, source = (torch.where(usable.unsqueeze(-1), x, unit) for x in (target, source))
        overlap = box_overlap(target, source, generalized=self.iou == 'giou')
        return ((1 - overlap) * weight * usable).sum()


def _scores(source: 'DensePrediction') -> Tensor:
    """The weights of the positions (N, P), once for all that learn from the source."""
    return once(source.cls_logits, 'scores', lambda: source.scores.detach())


def box_overlap(one: Tensor, other: Tensor, generalized: bool) -> Tensor:
    """IoU in [0, 1] or GIoU in [-1, 1] of boxes (..., 4), xyxy, pair by pair.

    Inverted boxes have no area, and their corners in the right order in the hull of the pair: mmdet
    and torchvision take hulls without area there, and values without bounds.
    """

    def area(corner: Tensor, opposite: Tensor) -> Tensor:
        return (opposite - corner).clamp(min=0).prod(-1)

    one_lt, one_rb = one[..., :2], one[..., 2:]
    other_lt, other_rb = other[..., :2], other[..., 2:]
    inner = area(torch.maximum(one_lt, other_lt), torch.minimum(one_rb, other_rb))
    union = area(one_lt, one_rb) + area(other_lt, other_rb) - inner
    iou = inner / union.clamp(min=1e-6)
    if not generalized:
        return iou
    corners = torch.stack([one_lt, one_rb, other_lt, other_rb])
    hull = area(corners.amin(0), corners.amax(0))
    return iou - (hull - union).clamp(min=0) / hull.clamp(min=1e-6)
