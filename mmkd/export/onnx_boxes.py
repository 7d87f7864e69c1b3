"""From a detector's ONNX outputs to boxes: NMS of each member, then the ensemble's fusion.

What it does with the outputs of one image, for those who write it in another language:

1. For each member: divide boxes by the scale of the resize, so that they are in pixels of the
   original image, and cut them at its border where `clip` is set.
2. Leave out scores that are not above `score_thr`; with `best_class` a position keeps its best
   class only, from `score_thr` on. Where there are `factors`, the threshold is for scores divided
   by them, and positions whose factor is below `factor_thr` are left out, too.
3. Where `nms_pre` is above 0, each level keeps its `nms_pre` best (of positions and classes), by
   the scores of step 2. `levels` has how many positions each level has; they follow each other.
   Without `levels` all positions are one.
4. Where `min_size` is 0 or more, leave out boxes whose width or height is not above it.
5. NMS among boxes of one class with `nms.iou_threshold`; the `max_per_img` best stay.
6. Of an ensemble: `fusion` has the arguments of `DetectionEnsemble`. Its `weights` and
   `calibration`, null or one of each member, are in the order of the members in `nms`. With a
   `calibration` (a, b) each score s of the member becomes sigmoid(a log(s / (1 - s)) + b), with s
   between 1e-6 and 1 - 1e-6. Boxes without area, or whose score is not above `score_thr`, are left
   out. Then weighted boxes fusion, or NMS, of the members' boxes (the library ensemble-boxes), with
   their `weights`; for NMS each score is multiplied by weight / largest weight. The `max_per_img`
   best stay (all, where it is -1). One member's boxes stay as they are.
7. A temperature T other than 1 turns each score s into sigmoid(log(s / (1 - s)) / T).

These are the steps of mmdet's own heads. Of candidates with the very same score at the limit of
`nms_pre`, as in an untrained network, others may stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from .onnx_graph import tempered


def boxes_of(
    outputs: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    size: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    index: int = 0,
) -> InstanceData:
    """Return the boxes of one image.

    Args:
        outputs: Of the ONNX model, by name.
        metadata: What `tools/export_onnx.py` has written into it.
        size: Height and width of the original image.
        scale: By what width and height were multiplied when it was resized.
        index: Which image of the batch.
    """
    from mmkd.models.ensembles.detection_ensemble import DetectionEnsemble

    fusion = metadata.get('fusion')
    found = []
    for name, step in metadata['nms'].items():
        prefix = f'{name}_' if fusion is not None else ''
        own = {
            kind: torch.as_tensor(outputs[f'{prefix}{kind}'][index])
            for kind in ('boxes', 'scores', 'levels', 'factors')
            if f'{prefix}{kind}' in outputs
        }
        own['boxes'] = own['boxes'] / torch.tensor([*scale, *scale])
        found.append(_after_nms(own, step, size))
    result = found[0] if fusion is None else DetectionEnsemble(**fusion)(found)
    temperature = metadata.get('temperature', 1.0)
    if temperature != 1:
        result.scores = tempered(result.scores, temperature, sigmoid=True)
    return result


def _after_nms(
    own: Mapping[str, torch.Tensor], step: Mapping[str, Any], size: tuple[int, int]
) -> InstanceData:
    from mmcv.ops import batched_nms

    boxes, scores = own['boxes'], own['scores']
    if step['clip']:
        height, width = size
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    place, labels = _candidates(own, step)
    found = InstanceData(bboxes=boxes[place], scores=scores[place, labels], labels=labels)
    if step['min_size'] >= 0:
        sides = found.bboxes[:, 2:] - found.bboxes[:, :2]
        found = found[(sides > step['min_size']).all(1)]
    if not len(found):
        return found
    kept, order = batched_nms(found.bboxes, found.scores, found.labels, dict(step['nms']))
    found = found[order]
    found.scores = kept[:, -1]
    most = step['max_per_img']
    return found[:most] if most > 0 else found


def _candidates(
    own: Mapping[str, torch.Tensor], step: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and classes that are left before NMS."""
    scores = own['scores']
    if step['best_class']:
        best = torch.zeros_like(scores, dtype=torch.bool)
        best.scatter_(1, scores.argmax(1, keepdim=True), True)
        place, labels = (best & (scores >= step['score_thr'])).nonzero(as_tuple=True)
        return place, labels
    keep = torch.ones_like(scores, dtype=torch.bool)
    if 'factors' in own:
        factors = own['factors'][:, None]
        keep &= factors >= step['factor_thr']
        scores = scores / factors  # NaN, which is above nothing, where a factor is 0
    keep &= scores > step['score_thr']
    most = step.get('nms_pre', -1)  # files of before have none
    if most <= 0:
        place, labels = keep.nonzero(as_tuple=True)
        return place, labels
    found, start = [], 0
    for count in own['levels'].tolist() if 'levels' in own else [len(scores)]:
        place, labels = keep[start : start + count].nonzero(as_tuple=True)
        place = place + start
        chosen = scores[place, labels].sort(descending=True).indices[:most]
        found.append(torch.stack([place[chosen], labels[chosen]]))
        start += count
    place, labels = torch.cat(found, dim=1)
    return place, labels
