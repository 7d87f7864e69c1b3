import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor

from mmkd.models.losses.dense_detection import TINY, DenseDetectionLoss
from mmkd.models.utils.logits import bernoulli_kl, log_joint, not_negative
from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer, check_number, choose
from mmkd.utils.distributed import mean_over_ranks
from mmkd.utils.errors import ConfigError
from mmkd.utils.random_stream import RandomStream

if TYPE_CHECKING:
    from mmengine.structures import InstanceData

    from mmkd.tasks.detection.structures import DensePrediction, DetectorPrediction


@MODELS.register_module()
class DetectionLoss(DenseDetectionLoss):
    """Distance of two detectors' predictions, in the finest form that both families have.

    | target and source | form |
    |---|---|
    | dense heads with as many positions | position by position |
    | two-stage detectors | both second stages on the target's proposals; RPNs' objectness |
    | transformers | queries, paired by Hungarian assignment |
    | any others, several sources without `combine` | boxes as a second truth |

    The first three are `DenseDetectionLoss` at the positions, proposals or pairs of queries that
    are common: 0 for identical networks. Where both draw masks (Mask R-CNN, RTMDet-Ins, CondInst,
    SOLOv2), they are compared at the places p, `max_per_img` of an image at most (of the batch's
    proposals, where these are the common ground), at which the source's score w_p reaches
    `score_thr`:

        + mask_weight sum_p w_p mean_xy KL(S(m_s / tau) || S(m_t / tau)) tau^2 / sum_p w_p

    with S the sigmoid and the logits m at the pixels of the target's own grid (mmkd's choice).

    Boxes as a second truth: with B the source's boxes, thresholded and after NMS, and s their mean
    score,

        loss = truth_weight s L_target(B)

    where L_target is the target's own loss for B in place of the ground truth, in the same forward
    pass. B is of the images on which the source is sure of something; the others teach nothing, for
    a source that has not learned yet sees nothing anywhere. L_target is not 0 for identical
    networks: it is least where the target predicts B with score 1, as with ground truth. Boxes of
    several sources are fused first, as a `DetectionEnsemble` does. Where source and target draw
    masks, the source's are part of the truth. Neither arXiv 2110.11023 nor
    others say how unlike detectors share predictions: the form and its defaults are mmkd's choice;
    boxes as labels are usual in semi-supervised detection (Sohn et al., arXiv 2005.04757).

    Args:
        tau: See `DenseDetectionLoss`, as the next five.
        class_weight: Factor of the classes.
        objectness_weight: Factor of the objectness.
        box_weight: Factor of the boxes.
        background_weight: Factor of the mean over all positions.
        iou: `iou` or `giou`.
        score_thr: Least score of a source's box. Detectors differ in the scale of their scores:
            choose it by the source.
        nms_iou: Of two boxes of a source that overlap more, the one with the lower score goes.
        max_per_img: Most boxes of an image.
        truth_weight: Factor of the form with boxes.
        mask_weight: Factor of the masks' term at common places.
        queries: How those of two transformers meet: `matched` (Hungarian assignment) or `aligned`
            (both decoders run again from the source's boxes, as in KD-DETR, arXiv 2211.08071; see
            `QueryPrediction`), for DAB-DETR, Deformable DETR and DINO; their gradient is not at
            the tap, so the link's weight must be a number, without a guard.
        classes: Which of the source's classes is which of the target's, `{source's: target's}` by
            index, where the two have only some in common (a teacher of COCO: `{16: 0}`). The rest
            teaches nothing; with boxes, the target keeps the ground truth of classes that the
            source does not have. Default: all, in the same order.

    Raises:
        ConfigError: For wrong arguments, members that differ in classes without `classes`, and a
            target whose own loss takes no second truth.
    """

    def __init__(
        self,
        tau: float = 1.0,
        class_weight: float = 1.0,
        objectness_weight: float = 1.0,
        box_weight: float = 1.0,
        background_weight: float = 1.0,
        iou: str = 'giou',
        score_thr: float = 0.3,
        nms_iou: float = 0.6,
        max_per_img: int = 100,
        truth_weight: float = 1.0,
        classes: Mapping[int, int] | None = None,
        mask_weight: float = 1.0,
        queries: str = 'matched',
    ) -> None:
        super().__init__(tau, class_weight, objectness_weight, box_weight, background_weight, iou)
        check_number(score_thr, 'score_thr', most=1)
        check_number(nms_iou, 'nms_iou', most=1)
        check_number(truth_weight, 'truth_weight')
        check_number(mask_weight, 'mask_weight')
        check_integer(max_per_img, 'max_per_img')
        self.score_thr, self.nms_iou, self.max_per_img = score_thr, nms_iou, max_per_img
        self.truth_weight, self.mask_weight = truth_weight, mask_weight
        self.queries = choose(queries, ('matched', 'aligned'), 'queries')
        self.classes = None if classes is None else _checked(classes)

    @property
    def through_tap(self) -> bool:
        """Not for aligned queries: decoders run again for them."""
        return self.queries != 'aligned'

    def forward(
        self,
        target: 'DetectorPrediction',
        source: 'DetectorPrediction | Sequence[DetectorPrediction]',
        image_metas: Sequence[dict[str, Any]] | None = None,
        data_samples: Sequence[Any] | None = None,
        target_network: Any = None,
        progress: float = 1.0,
    ) -> Tensor:
        """Compare predictions.

        Args:
            target: What the target's `prediction` tap reads.
            source: The source's, or a list of several.
            image_metas: What is known of each image. Default: whole images, for dense heads.
            data_samples: One per image, with ground truth; needed for boxes with partial `classes`.
            target_network: None at the build's probe, which has no second truth.
            progress: Share of the training done.

        Returns:
            A scalar.
        """
        several = isinstance(source, (list, tuple))
        sources: Any = source if several else [source]
        metas = list(image_metas or [])
        for each in sources:
            self._check_classes(target, each)
        # What is drawn at random inside (RoI heads' samples, dropout) goes on from no other step's
        # numbers: it depends on the progress alone, so that a resumed training draws the same.
        stream = RandomStream(crc32(repr(progress).encode()))
        if not several:
            aligned = self.queries == 'aligned'  # which runs decoders, with their dropout
            with stream(image_device(target)) if aligned else nullcontext():
                pairs = self._common(target).aligned(
                    self._common(source, own=False), metas, self.queries
                )
            if pairs:
                return torch.stack([self._at_places(*self._joint(*pair)) for pair in pairs]).sum()
        if target_network is None:
            target.check_own_loss()
            return torch.zeros(())
        masks = all(each.has_masks for each in (target, *sources))
        truth = self._fused([self._truth(each, metas, masks) for each in sources])
        with stream(image_device(target)):
            return self.truth_weight * self._of_truth(target, truth, metas, data_samples)

    # ---------------------------------------------------------------- common places

    def _at_places(self, target: 'DensePrediction', source: 'DensePrediction') -> Tensor:
        loss = super().forward(target, source)
        makers = [each.masks for each in (target, source) if each.masks is not None]
        if len(makers) < 2 or not self.mask_weight:
            return loss
        scores = source.scores.detach()
        best = scores.topk(min(self.max_per_img, scores.shape[1])).indices
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)
        images, places = torch.where(chosen & (scores >= self.score_thr))
        weight = scores[images, places]
        total = mean_over_ranks(weight.sum()).clamp(min=TINY)
        if not len(images):
            return loss
        labels = source.cls_logits[images, places].argmax(-1)
        own, theirs = (make(images, places, labels).float() for make in makers)
        theirs = resize_like(theirs[None], own[None])[0]
        with torch.autocast(own.device.type, enabled=False):
            distance = bernoulli_kl(own / self.tau, theirs / self.tau).mean((1, 2)) * self.tau**2
            return loss + self.mask_weight * not_negative((distance * weight).sum() / total)

    # ---------------------------------------------------------------- classes

    def _check_classes(self, target: 'DetectorPrediction', source: 'DetectorPrediction') -> None:
        counts = source.num_classes, target.num_classes
        if self.classes is None:
            if counts[0] != counts[1]:
                raise ConfigError(
                    f'predictions differ in classes: target {target}, source {source}; what works: '
                    "loss=dict(type='DetectionLoss', classes={source's index: target's index}), or "
                    "the features ('feature')"
                )
            return
        for index, count, side in (
            (max(self.classes), counts[0], 'source'),
            (max(self.classes.values()), counts[1], 'target'),
        ):
            if index >= count:
                raise ConfigError(f'classes: {index} is none of the {count} of the {side}')

    def _common(self, prediction: Any, own: bool = True) -> Any:
        """Return what a target (`own`) or a source says of the classes in common."""
        if self.classes is None:
            return prediction
        return prediction.of_classes(list(self.classes.values() if own else self.classes))

    def _joint(
        self, target: 'DensePrediction', source: 'DensePrediction'
    ) -> tuple['DensePrediction', 'DensePrediction']:
        """Put the objectness into the source's classes: it knows no objects of other classes."""
        if self.classes is None or source.obj_logits is None:
            return target, source
        log_p, log_not_p = log_joint(source.cls_logits, source.obj_logits)
        return target, replace(source, cls_logits=log_p - log_not_p, obj_logits=None)

    # ---------------------------------------------------------------- boxes as a second truth

    def _truth(
        self, source: 'DetectorPrediction', metas: Sequence[dict[str, Any]], masks: bool
    ) -> list['InstanceData']:
        from mmkd.tasks.detection.truth import truth_of

        how = self.score_thr, self.nms_iou, self.max_per_img, masks
        key = (*how, tuple((self.classes or {}).items()))
        if key in source.truths:
            return source.truths[key]
        found = truth_of(self._common(source, own=False), metas, *how)
        if self.classes is not None:
            for each in found:
                each.labels = each.labels.new_tensor(list(self.classes.values()))[each.labels]
        source.truths[key] = found
        return found

    def _fused(self, truths: list[list['InstanceData']]) -> list['InstanceData']:
        """Return one truth per image, of one or several sources."""
        if len(truths) == 1:
            return truths[0]
        from mmkd.models.ensembles import DetectionEnsemble

        # With 1 equal boxes alone are one, as for a single source; fusion asks for less than 1.
        below = min(self.nms_iou, math.nextafter(1, 0))
        fuse = DetectionEnsemble(iou_thr=below, max_per_img=self.max_per_img)
        return [fuse(list(row)) for row in zip(*truths)]

    def _of_truth(
        self,
        target: 'DetectorPrediction',
        truth: Sequence['InstanceData'],
        metas: Sequence[dict[str, Any]],
        data_samples: Sequence[Any] | None,
    ) -> Tensor:
        sure = [i for i, each in enumerate(truth) if len(each)]
        # Losses wait for other ranks: each rank computes one, if only to leave it out.
        images = sure or [0]
        scores = torch.cat([each.scores for each in truth])
        weight = scores.mean() if sure else scores.new_zeros(())
        given = [_plain(truth[i]) for i in images]
        if self.classes is not None and len(self.classes) < target.num_classes:
            if data_samples is None:
                raise ConfigError(
                    'classes: with boxes the target keeps the ground truth of its other classes, '
                    "so the link must act on='labeled'"
                )
            given = [
                self._completed(each, data_samples[i].gt_instances)
                for each, i in zip(given, images)
            ]
        return weight * target.own_loss(given, metas, images)

    def _completed(self, truth: 'InstanceData', gt: Any) -> 'InstanceData':
        """Add the ground truth of classes that the source does not have."""
        assert self.classes is not None
        known = gt.labels.new_tensor(list(self.classes.values()))
        rest = gt[~torch.isin(gt.labels, known)]
        completed = type(truth)(
            bboxes=torch.cat([truth.bboxes, rest.bboxes.to(truth.bboxes)]),
            labels=torch.cat([truth.labels, rest.labels]),
        )
        if 'masks' in truth:  # those of the ground truth are not padded yet
            size, device = truth.masks.shape[-2:], truth.masks.device
            own = rest.masks.pad(size).to_tensor(torch.bool, device)
            completed.masks = torch.cat([truth.masks, own])
        return completed


def image_device(prediction: Any) -> torch.device:
    """Return the device of a prediction's tensors."""
    tensor = prediction.features[0] if hasattr(prediction, 'features') else prediction.boxes
    return tensor.device


def _plain(truth: 'InstanceData') -> 'InstanceData':
    """Leave the scores out, which no head knows."""
    return type(truth)(**{key: value for key, value in truth.items() if key != 'scores'})


def _checked(classes: Any) -> dict[int, int]:
    fits = isinstance(classes, Mapping) and len(classes) > 0
    numbers = [*classes, *classes.values()] if fits else []
    if not fits or not all(type(n) is int and n >= 0 for n in numbers):
        raise ConfigError(f"classes: expected {{source's index: target's index}}, got {classes!r}")
    if len(set(classes.values())) < len(classes):
        raise ConfigError(f'classes: two classes of the source are one of the target: {classes}')
    return dict(classes)
