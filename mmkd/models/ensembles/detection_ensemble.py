import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from mmkd.registry import MODELS
from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.samples import shallow_copy

from .base import Ensemble

CONF_TYPES = ('max', 'avg', 'box_and_model_avg', 'absent_model_aware_avg')


FAR = 1e5  # pixels: beyond it boxes are cut, or one that exploded would blur all others


@MODELS.register_module()
class DetectionEnsemble(Ensemble):
    """Fuse several detectors' boxes of one image by weighted boxes fusion or NMS.

    Weighted boxes fusion: Solovyev et al., "Weighted boxes fusion" (Image and Vision Computing,
    2021), by the library ensemble-boxes. The IoU of 0.55 is that paper's default. An ensemble of
    one member gives that member's predictions as they are. Boxes are not cut at the image's border:
    they end there if the members' do.

    Where all members give masks, a fused box gets a mask (mmkd's choice): each pixel is voted on by
    the boxes of its label that overlap it by more than `iou_thr`, weighted by their scores; by NMS
    it keeps its own. A member that gives masks alone (SOLOv2) takes part with the masks' boxes.

    Args:
        fusion: `wbf` or `nms`.
        iou_thr: Boxes of one class that overlap more are fused.
        conf_type: Score of a fused box in weighted boxes fusion. `max`: the highest of its boxes.
            `avg`: their mean, times min(members, boxes) / members; duplicates of one member count
            like boxes of several. `box_and_model_avg` and `absent_model_aware_avg`: means that tell
            the two apart, see the library. Default: `max`, mmkd's choice: a member's own NMS leaves
            duplicates of low score, which drag means down.
        score_thr: Boxes with a lower score are left out first.
        max_per_img: Maximum number of boxes per image, best first; -1: all.
        weights: Of the members, in their order, or by name in a config
            (`weights=dict(student1=2.0)`; 1 where a member is not named): how much a member's boxes
            move a fused one, and by how much its scores count against the heaviest member's. Take
            them from validation. Default: alike.
        calibration: Of the members, likewise: `(slope, offset)` of their scores' log-odds (Platt
            scaling), for detectors whose scores differ in scale. Default: (1, 0), as they are.

    Raises:
        ConfigError: For wrong arguments.
    """

    def __init__(
        self,
        fusion: str = 'wbf',
        iou_thr: float = 0.55,
        conf_type: str = 'max',
        score_thr: float = 0.001,
        max_per_img: int = 100,
        weights: Sequence[float] | None = None,
        calibration: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        super().__init__()
        self.fusion = choose(fusion, ('wbf', 'nms'), 'model.ensemble.fusion')
        self.conf_type = choose(conf_type, CONF_TYPES, 'model.ensemble.conf_type')
        for name, value in (('iou_thr', iou_thr), ('score_thr', score_thr)):
            check_number(value, name, most=1)
            if value == 1:
                raise ConfigError(f'{name}: expected a number below 1, got {value}')
        if type(max_per_img) is not int or (max_per_img < 1 and max_per_img != -1):
            raise ConfigError(
                f'max_per_img: expected a number of boxes, or -1 for all, got {max_per_img!r}'
            )
        self.iou_thr, self.score_thr, self.max_per_img = iou_thr, score_thr, max_per_img
        self.weights = None if weights is None else list(weights)
        for weight in self.weights or []:
            check_number(weight, 'model.ensemble.weights')
        if self.weights is not None and not any(self.weights):
            raise ConfigError('model.ensemble.weights: all are 0')
        self.calibration = None if calibration is None else list(calibration)
        for pair in self.calibration or []:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise ConfigError(
                    f'model.ensemble.calibration: expected (slope, offset), got {pair!r}'
                )
            check_number(pair[0], 'model.ensemble.calibration: slope')
            check_number(pair[1], 'model.ensemble.calibration: offset', -float('inf'))
        self.told = False

    def forward(self, predictions: Sequence[InstanceData]) -> InstanceData:
        """Fuse one image's predictions.

        Args:
            predictions: One per member: bboxes (M, 4) xyxy in pixels, scores (M,), labels (M,),
                and perhaps masks (M, H, W).

        Returns:
            Fused bboxes, scores, labels (and masks), best first; one member's as they are.
        """
        if len(predictions) == 1:
            return predictions[0]
        members = [self._usable(p) for p in self._calibrated(map(_with_boxes, predictions))]
        weights = self.weights
        if weights is not None:  # the library has no weight of 0
            members = [member for member, weight in zip(members, weights) if weight]
            weights = [weight for weight in weights if weight]
        first = predictions[0].bboxes
        if not any(len(p) for p in members):
            boxes, scores, labels = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
        else:
            boxes, scores, labels = self._fused(members, weights)
        order = np.argsort(-scores, kind='stable')
        if self.max_per_img > 0:
            order = order[: self.max_per_img]
        fused = InstanceData(
            bboxes=first.new_tensor(boxes[order]),
            scores=first.new_tensor(scores[order]),
            labels=torch.as_tensor(labels[order].astype(np.int64), device=first.device),
        )
        masked = ['masks' in p for p in predictions]
        if all(masked):
            fused.masks = self._fused_masks(fused, members)
        elif any(masked) and not self.told:
            self.told = True
            print_log(
                'model.ensemble: some of its members give no masks, so neither does the ensemble',
                logger='current',
                level=logging.WARNING,
            )
        return fused

    def agreement(self, one: BaseDataElement, other: BaseDataElement) -> float:
        """Of both members' boxes with a score of 0.3 or more, the share that the other has, too.

        It has a box where one of its own of that class has an IoU of 0.5 or more. 1 where neither
        has boxes.
        """
        from mmdet.structures.bbox import bbox_overlaps

        from mmkd.tasks.detection.drawing import DRAWN_SCORE

        first, second = (
            found[found.scores >= DRAWN_SCORE]
            for found in (_with_boxes(sample.pred_instances) for sample in (one, other))
        )
        total = len(first) + len(second)
        if not len(first) or not len(second):
            return float(not total)
        same = first.labels[:, None] == second.labels
        met = same & (bbox_overlaps(first.bboxes.float(), second.bboxes.float()) >= 0.5)
        return float(met.any(0).sum() + met.any(1).sum()) / total

    def _calibrated(self, predictions: Iterable[InstanceData]) -> list[InstanceData]:
        if self.calibration is None:
            return list(predictions)
        found = []
        for prediction, (slope, offset) in zip(predictions, self.calibration, strict=True):
            log_odds = prediction.scores.float().logit(eps=1e-6)
            prediction = prediction[:]  # a copy
            prediction.scores = (slope * log_odds + offset).sigmoid().to(prediction.scores)
            found.append(prediction)
        return found

    def _usable(self, prediction: InstanceData) -> InstanceData:
        """Leave out boxes with a low score or without area nearer than FAR, which it warns of."""
        near = prediction.bboxes.float().clamp(-FAR, FAR)
        keep = (near[:, 2:] > near[:, :2]).all(1) & prediction.bboxes.isfinite().all(1)
        keep &= prediction.scores.float() > self.score_thr
        return prediction if keep.all() else prediction[keep]

    def _fused(
        self, members: Sequence[InstanceData], weights: Sequence[float] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from ensemble_boxes import nms, weighted_boxes_fusion  # imports numba and pandas

        boxes = [p.bboxes.detach().cpu().double().numpy().clip(-FAR, FAR) for p in members]
        scores = [p.scores.detach().cpu().double().numpy() for p in members]
        labels = [p.labels.cpu().numpy() for p in members]
        # The library takes coordinates in [0, 1] and cuts what lies outside: scale by the boxes'
        # own extent, which leaves their IoUs as they are.
        together = np.concatenate(boxes)
        start, end = together[:, :2].min(0), together[:, 2:].max(0)
        offset, extent = np.tile(start, 2), np.tile(end - start, 2)
        boxes = [((b - offset) / extent).clip(0, 1) for b in boxes]
        if weights is not None and self.fusion == 'nms':
            # The library's own weights make scores smaller by their sum.
            scores = [s * w / max(weights) for s, w in zip(scores, weights)]
        if self.fusion == 'nms':
            fused = nms(boxes, scores, labels, iou_thr=self.iou_thr)
        else:
            fused = weighted_boxes_fusion(
                boxes,
                scores,
                labels,
                weights=weights,
                iou_thr=self.iou_thr,
                skip_box_thr=self.score_thr,
                conf_type=self.conf_type,
            )
        return fused[0] * extent + offset, fused[1], fused[2]

    def _fused_masks(self, fused: InstanceData, members: Sequence[InstanceData]) -> Tensor:
        from mmdet.structures.bbox import bbox_overlaps

        boxes, scores, labels, masks = (
            torch.cat([p.get(name) for p in members if len(p)] or [members[0].get(name)])
            for name in ('bboxes', 'scores', 'labels', 'masks')
        )
        overlaps = bbox_overlaps(fused.bboxes, boxes)
        overlaps[fused.labels[:, None] != labels] = -1
        votes = [masks.new_zeros((0, *masks.shape[1:])).bool()]
        for overlap in overlaps:
            voters = overlap > self.iou_thr
            if self.fusion == 'nms' or not voters.any():
                voters = torch.arange(len(overlap), device=overlap.device) == overlap.argmax()
            weights = scores[voters].float()
            vote = torch.einsum('m,mhw->hw', weights / weights.sum(), masks[voters].float())
            votes.append(vote[None] > 0.5)
        return torch.cat(votes)

    def fuse_samples(self, samples: Sequence[BaseDataElement]) -> BaseDataElement:
        """Fuse the members' `pred_instances`."""
        fused: Any = shallow_copy(samples[0])
        fused.pred_instances = self([sample.pred_instances for sample in samples])
        return fused


def _with_boxes(prediction: InstanceData) -> InstanceData:
    """Give masks whose boxes are all empty, as SOLOv2 leaves them, the boxes around them."""
    from mmkd.tasks.detection.masks import boxes_of

    if 'masks' not in prediction or prediction.bboxes.any():
        return prediction
    prediction = prediction[:]  # a copy
    prediction.bboxes = boxes_of(prediction.masks).to(prediction.bboxes)
    return prediction
