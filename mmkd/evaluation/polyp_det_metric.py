from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmkd.registry import METRICS
from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError

from .calibration import expected_error

DUPLICATE = -1  # a further detection of a polyp that was found already
SIZES = ('small', 'medium', 'large')


@METRICS.register_module()
class PolypDetMetric(BaseMetric):
    """Polyp detection as polyp papers measure it; boxes of all categories count as polyps.

    A box finds a polyp in one of two ways. By overlap: the boxes' IoU is at least `iou_thr`; the
    best score first, each polyp once, further boxes are false positives (as COCO and VOC do). By
    `centroid`: the center of the box lies in the polyp's box; further boxes in a polyp that was
    found count neither as right nor as wrong (Bernal et al., "Comparative validation of polyp
    detection methods in video colonoscopy", IEEE TMI 2017, there with masks).

    The figures, in percent but for scores and false positives:

    - `precision`, `recall`, `f1`, `f2`, `fp_per_frame`: of boxes with a score from `score_thr` on.
    - `best_*`: the same at the score that gives the best F1, which is `best_score`. It is chosen on
      the images that are measured: compare models by it, but do not report it as a test result.
    - `centroid_*`, `centroid_best_*`: by centroid.
    - `ap50`, `ap50_small`, `ap50_medium`, `ap50_large`: COCO's average precision at IoU 0.5 by
      pycocotools, of all polyps and by their share of the frame's area (mmkd's choice, since COCO's
      limits in pixels mean little at other image sizes). -1 where there is no polyp of that size.
    - `ece`: the detection calibration error, the mean distance between score and precision over 10
      bins of score, weighted by their boxes, of boxes with a score from 0.3 on (Kueppers et al.,
      "Multivariate confidence calibration for object detection", CVPRW 2020, without the boxes'
      positions). NaN without such boxes.

    Args:
        ann_file: COCO file of the ground truth, as for `CocoMetric`. Crowds are left out.
        score_thr: The fixed score.
        iou_thr: Least IoU of a found polyp.
        sizes: Up to which share of the frame a polyp is small, and from which it is large.
        collect_device: As every mmengine metric's.
        prefix: As every mmengine metric's. Default: `polyp`.

    Raises:
        ConfigError: If the file is missing or no COCO file, or while evaluating, if it does not
            have an image.
    """

    default_prefix = 'polyp'

    def __init__(
        self,
        ann_file: str,
        score_thr: float = 0.5,
        iou_thr: float = 0.5,
        sizes: tuple[float, float] = (0.05, 0.2),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_number(score_thr, 'PolypDetMetric.score_thr', most=1)
        check_number(iou_thr, 'PolypDetMetric.iou_thr', most=1)
        if len(sizes) != 2 or not 0 < sizes[0] < sizes[1] < 1:
            raise ConfigError(
                f'PolypDetMetric.sizes: expected two shares 0 < small < large < 1, got {sizes!r}'
            )
        self.ann_file, self.score_thr, self.iou_thr = ann_file, score_thr, iou_thr
        self.sizes = tuple(sizes)
        self._truth: dict[Any, np.ndarray] | None = None

    @property
    def truth(self) -> dict[Any, np.ndarray]:
        """The polyps' boxes (M, 4), xyxy, by image."""
        if self._truth is None:
            self._truth = _read_truth(self.ann_file)
        return self._truth

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Match each image's boxes.

        Args:
            data_batch: Not used.
            data_samples: With `img_id`, `ori_shape` and `pred_instances` in pixels of the file.
        """
        for sample in data_samples:
            if sample['img_id'] not in self.truth:
                raise ConfigError(
                    f'PolypDetMetric.ann_file: {self.ann_file} has no image {sample["img_id"]!r}; '
                    'is it the file of the data set that is evaluated?'
                )
            found = sample['pred_instances']
            scores = found['scores'].float().cpu().numpy()
            order = np.argsort(-scores, kind='stable')
            boxes = found['bboxes'].float().cpu().numpy()[order]
            polyps = self.truth[sample['img_id']]
            height, width = sample['ori_shape'][:2]
            self.results.append(
                dict(
                    scores=scores[order],
                    overlap=matched_by_overlap(boxes, polyps, self.iou_thr),
                    centroid=matched_by_centroid(boxes, polyps),
                    boxes=boxes,
                    polyps=polyps,
                    area=float(height * width),
                )
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Return the figures of all images."""
        scores = np.concatenate([result['scores'] for result in results])
        polyps = sum(len(result['polyps']) for result in results)
        metrics: dict[str, float] = {}
        for kind, prefix in (('overlap', ''), ('centroid', 'centroid_')):
            status = np.concatenate([result[kind] for result in results])
            curve = _Curve(scores, status, polyps, len(results))
            metrics.update(curve.figures(curve.count_from(self.score_thr), prefix))
            best = curve.best()
            metrics.update(curve.figures(best, f'{prefix}best_'))
            metrics[f'{prefix}best_score'] = curve.score_of(best)
        metrics.update(_average_precision(results, self.sizes))
        status = np.concatenate([result['overlap'] for result in results])
        sure = scores >= 0.3
        metrics['ece'] = 100 * expected_error(scores[sure], status[sure] == 1, bins=10)
        return metrics


class _Curve:
    """Counts of right and wrong boxes among the `n` best, for each `n`.

    Args:
        scores: Of all boxes.
        status: 1 right, 0 wrong, `DUPLICATE` neither.
        polyps: Number of polyps.
        frames: Number of images.
    """

    def __init__(self, scores: np.ndarray, status: np.ndarray, polyps: int, frames: int) -> None:
        order = np.argsort(-scores, kind='stable')
        self.scores = scores[order]
        self.right = np.concatenate([[0], np.cumsum(status[order] == 1)])
        self.wrong = np.concatenate([[0], np.cumsum(status[order] == 0)])
        self.polyps, self.frames = polyps, frames

    def count_from(self, score: float) -> int:
        """Return how many boxes have at least a score."""
        return int((self.scores >= score).sum())

    def f(self, beta: float) -> np.ndarray:
        """Return F-beta by number of boxes."""
        missed = self.polyps - self.right
        hits = (1 + beta**2) * self.right
        return hits / np.maximum(hits + beta**2 * missed + self.wrong, 1)

    def best(self) -> int:
        """Return the number of boxes with the best F1 among those that a score can cut off."""
        cuts = np.flatnonzero(np.append(np.diff(self.scores) != 0, True)) + 1
        if not len(self.scores):
            return 0
        return int(cuts[np.argmax(self.f(1)[cuts])])

    def score_of(self, count: int) -> float:
        """Return the least score of that many boxes."""
        return float(self.scores[count - 1]) if count else float('nan')

    def figures(self, count: int, prefix: str) -> dict[str, float]:
        """Return what is measured of that many boxes."""
        right, wrong = int(self.right[count]), int(self.wrong[count])
        return {
            f'{prefix}precision': 100 * right / (right + wrong) if right + wrong else 0.0,
            f'{prefix}recall': 100 * right / self.polyps if self.polyps else float('nan'),
            f'{prefix}f1': 100 * float(self.f(1)[count]),
            f'{prefix}f2': 100 * float(self.f(2)[count]),
            f'{prefix}fp_per_frame': wrong / self.frames,
        }


def matched_by_overlap(boxes: np.ndarray, polyps: np.ndarray, iou_thr: float) -> np.ndarray:
    """Return 1 for boxes (N, 4), best first, that find one of `polyps` (M, 4), else 0."""
    status = np.zeros(len(boxes), int)
    overlaps = _ious(boxes, polyps)
    for i, overlap in enumerate(overlaps):
        if len(polyps) and overlap.max() >= iou_thr:
            status[i] = 1
            overlaps[:, overlap.argmax()] = -1  # each once
    return status


def matched_by_centroid(boxes: np.ndarray, polyps: np.ndarray) -> np.ndarray:
    """Return 1 for boxes (N, 4), best first, whose center finds a polyp, -1 finds it again, 0."""
    status = np.zeros(len(boxes), int)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    free = np.ones(len(polyps), bool)
    for i, center in enumerate(centers):
        inside = ((polyps[:, :2] <= center) & (center <= polyps[:, 2:])).all(1)
        if inside.any():
            status[i] = DUPLICATE
        if (inside & free).any():
            status[i] = 1
            # Of polyps one inside another the one whose center is nearest.
            distances = np.abs((polyps[:, :2] + polyps[:, 2:]) / 2 - center).sum(1)
            free[np.where(inside & free, distances, np.inf).argmin()] = False
    return status


def _ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    start = np.maximum(boxes[:, None, :2], others[None, :, :2])
    end = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (end - start).clip(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).clip(min=0).prod(-1) for b in (boxes, others)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)


def _read_truth(ann_file: str) -> dict[Any, np.ndarray]:
    try:
        content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(f'PolypDetMetric.ann_file: {ann_file}: {error}') from error
    if not isinstance(content, dict) or not {'images', 'annotations'} <= set(content):
        raise ConfigError(f'PolypDetMetric.ann_file: {ann_file} is no COCO annotation file')
    boxes: dict[Any, list[list[float]]] = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        if not annotation.get('iscrowd'):
            x, y, width, height = annotation['bbox']
            boxes[annotation['image_id']].append([x, y, x + width, y + height])
    return {image: np.array(found, float).reshape(-1, 4) for image, found in boxes.items()}


def _average_precision(
    results: Sequence[dict[str, Any]], sizes: tuple[float, ...]
) -> dict[str, float]:
    """Return COCO's average precision at IoU 0.5, with areas as shares of the frame."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), COCO()
    for coco, key in ((truth, 'polyps'), (found, 'boxes')):
        annotations = [
            dict(
                image_id=image,
                category_id=1,
                bbox=[*box[:2], *(box[2:] - box[:2])],
                area=float((box[2:] - box[:2]).prod() / result['area']),
                iscrowd=0,
                score=float(score),
            )
            for image, result in enumerate(results)
            for box, score in zip(
                result[key], result['scores'] if key == 'boxes' else np.ones(len(result[key]))
            )
        ]
        coco.dataset = dict(
            images=[dict(id=image) for image in range(len(results))],
            annotations=[dict(one, id=i) for i, one in enumerate(annotations, start=1)],
            categories=[dict(id=1, name='polyp')],
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, 'bbox')
        evaluation.params.iouThrs = np.array([0.5])
        limits = [0.0, *sizes, 1e9]
        evaluation.params.areaRng = [[0, 1e9], *zip(limits[:-1], limits[1:])]
        evaluation.params.areaRngLbl = ['all', *SIZES]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval['precision'][0, :, 0, :, -1]  # (recalls, sizes)
    metrics = {}
    for name, column in zip(('ap50', *(f'ap50_{size}' for size in SIZES)), precision.T):
        metrics[name] = 100 * float(column.mean()) if (column > -1).all() else -1.0
    return metrics
