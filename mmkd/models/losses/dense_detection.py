import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_overlaps
from torch import nn

from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.distributed import mean_over_ranks
from mmkd.utils.errors import ConfigError

from .kl_divergence import bernoulli_kl, check_tau


@MODELS.register_module()
class DenseDetectionLoss(nn.Module):
    """Distance of two dense detectors' predictions, position by position on their common grid.

    With w the source's score (best class times objectness) at each of the P positions of all levels,

        loss = class_weight C + objectness_weight O + box_weight B
        C = sum w k_cls / sum w + background_weight mean k_cls     (O alike, with k_obj)
        B = sum w (1 - GIoU) / sum w

    where k_cls = tau^2 times the binary divergences KL(source || target) summed over classes, k_obj that of the objectness.
    Weighting by the source's confidence keeps the background, nearly all positions, from drowning the rest, as dense
    distillation does elsewhere (e.g. CrossKD, arXiv 2306.11369, LD, arXiv 2102.12252). arXiv 2110.11023 leaves open how dense
    detections are matched: this form is mmkd's choice, and so is `background_weight`, without which nothing would push down
    a target's score where the source sees nothing.

    Between a head with objectness and one without (YOLOX and RTMDet) the joint probability class x objectness is compared,
    in log space and without temperature. Positions where a box is not finite (YOLOX's exponent, early in training) are left
    out of B, without a gradient. Computed in float32, also under autocast. In a distributed training sum w is its mean over the
    ranks, so that DDP's averaged gradients are those of the joint batch (a rank's own value then differs from the joint one).

    Args:
        tau (float): Temperature of the class and objectness terms. Default: 1.
        class_weight, objectness_weight, box_weight (float): Factors. Default: 1 each.
        background_weight (float): Factor of the plain mean over positions. Default: 1.
        iou (str): `iou` or `giou`. Default: `giou`.
    """

    def __init__(
        self,
        tau=1.0,
        class_weight=1.0,
        objectness_weight=1.0,
        box_weight=1.0,
        background_weight=1.0,
        iou='giou',
    ):
        super().__init__()
        self.tau, self.iou = check_tau(tau), choose(iou, ('iou', 'giou'), 'iou')
        weights = dict(
            class_weight=class_weight,
            objectness_weight=objectness_weight,
            box_weight=box_weight,
            background_weight=background_weight,
        )
        for name, value in weights.items():
            if not 0 <= value < float('inf'):
                raise ConfigError(f'{name}: expected a number >= 0, got {value}')
            setattr(self, name, value)

    def forward(self, target, source):
        """Compare two `DensePrediction`s.

        Returns:
            Tensor: A scalar.

        Raises:
            ConfigError: If they differ in positions or classes.
        """
        if target.cls_logits.shape != source.cls_logits.shape:
            raise ConfigError(
                f'predictions differ in positions or classes: target {target}, source {source}'
            )
        with torch.autocast(target.boxes.device.type, enabled=False):
            weight = source.scores.detach()
            weight = weight / mean_over_ranks(weight.sum()).clamp(
                min=torch.finfo(torch.float32).tiny
            )
            classes, objectness = self._divergences(target, source)
            loss = self.class_weight * self._mean(classes, weight)
            if objectness is not None:
                loss = loss + self.objectness_weight * self._mean(objectness, weight)
            return loss + self.box_weight * self._box_term(target.boxes, source.boxes, weight)

    def _mean(self, values, weight):
        return (values * weight).sum() + self.background_weight * values.mean()

    def _divergences(self, target, source):
        t, s = target.cls_logits.float(), source.cls_logits.float()
        if (target.obj_logits is None) == (source.obj_logits is None):
            classes = bernoulli_kl(t / self.tau, s / self.tau).sum(-1) * self.tau**2
            if target.obj_logits is None:
                return classes, None
            objectness = bernoulli_kl(
                target.obj_logits.float() / self.tau, source.obj_logits.float() / self.tau
            )
            return classes, objectness * self.tau**2
        (log_t, log_not_t), (log_s, log_not_s) = self._log_joint(target), self._log_joint(source)
        return (log_s.exp() * (log_s - log_t) + log_not_s.exp() * (log_not_s - log_not_t)).sum(
            -1
        ), None

    @staticmethod
    def _log_joint(prediction):
        """Return log(p) and log(1 - p) of p = class probability times objectness (if any)."""
        classes = prediction.cls_logits.float()
        if prediction.obj_logits is None:
            return F.logsigmoid(classes), F.logsigmoid(-classes)
        objectness = prediction.obj_logits.float().unsqueeze(-1)
        return (
            F.logsigmoid(classes) + F.logsigmoid(objectness),
            torch.logaddexp(
                F.logsigmoid(-classes), F.logsigmoid(classes) + F.logsigmoid(-objectness)
            ),
        )

    def _box_term(self, target, source, weight):
        target, source = target.float(), source.float()
        # Areas of boxes beyond 1e6 pixels overflow in sums; such predictions carry no knowledge of use.
        usable = ((target.abs() < 1e6) & (source.abs() < 1e6)).all(-1)
        target, source = (
            torch.where(usable.unsqueeze(-1), boxes, boxes.new_tensor([0.0, 0.0, 1.0, 1.0]))
            for boxes in (target, source)
        )
        overlap = bbox_overlaps(
            target.reshape(-1, 4), source.reshape(-1, 4), mode=self.iou, is_aligned=True
        )
        return ((1 - overlap.view_as(weight)) * weight * usable).sum()
