"""The toolboxes' own metrics with faster counting: the same figures."""

import functools
import sys
from typing import Any

from mmengine.evaluator import BaseMetric

from .label_areas import label_areas


def count_quickly(metric: BaseMetric) -> None:
    """Let an IoUMetric count pixels by `label_areas`, a CocoMetric match boxes by faster-coco-eval.

    Other metrics, and subclasses that count in their own way, stay as they are.

    Args:
        metric: A metric of an evaluator; it is changed in place.
    """
    own: Any
    segmentation = sys.modules.get('mmseg.evaluation.metrics.iou_metric')
    if segmentation is not None and isinstance(metric, segmentation.IoUMetric):
        own = metric.intersect_and_union
        if own is segmentation.IoUMetric.intersect_and_union:
            metric.intersect_and_union = label_areas
    detection = sys.modules.get('mmdet.evaluation.metrics.coco_metric')
    if detection is not None and isinstance(metric, detection.CocoMetric):
        own = type(metric).compute_metrics
        if own is detection.CocoMetric.compute_metrics:
            matching = _quick_evaluation()  # a missing package is told here, before a training
            metric.compute_metrics = functools.partial(_compute_quickly, metric, matching)


@functools.cache
def _quick_evaluation() -> Any:
    """Return a class that matches boxes by faster-coco-eval and sums up as pycocotools does.

    Of more than 100 detections an image faster-coco-eval's own summary counts all in the mAP.
    """
    from faster_coco_eval import COCOeval_faster
    from pycocotools.cocoeval import COCOeval

    class QuickEvaluation(COCOeval_faster):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, print_function=print, **kwargs)

        def summarize(self) -> None:
            COCOeval.summarize(self)

    return QuickEvaluation


def _compute_quickly(metric: Any, matching: Any, results: list[Any]) -> dict[str, float]:
    """Return what CocoMetric.compute_metrics does.

    mmdet finds the class that matches boxes in its module alone, so it is replaced there meanwhile.
    """
    from mmdet.evaluation.metrics import coco_metric

    own, kinds = coco_metric.COCOeval, metric.metrics
    coco_metric.COCOeval = matching
    if not any('masks' in predicted for _, predicted in results):
        metric.metrics = [kind for kind in kinds if kind != 'segm']  # a member without masks
    try:
        return coco_metric.CocoMetric.compute_metrics(metric, results)
    finally:
        coco_metric.COCOeval, metric.metrics = own, kinds
