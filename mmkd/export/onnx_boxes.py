"""From a detector's ONNX outputs to boxes: NMS of each member, then the ensemble's fusion.

What it does with the outputs of one image, for those who write it in another language:

1. For each member: divide boxes by the scale of the resize, so that they are in pixels of the
   original image (and cut them at its border where `clip` is set).
2. Leave out scores below `score_thr`; with `best_class` a position keeps its best class only. Leave
   out boxes whose width or height is not above `min_size`.
3. NMS among boxes of one class with `nms.iou_threshold`; the `max_per_img` best stay.
4. Of an ensemble: weighted boxes fusion, or NMS, of the members' boxes as `fusion` says
   (`DetectionEnsemble`, the library ensemble-boxes).
5. A temperature T other than 1 turns each score s into sigmoid(log(s / (1 - s)) / T).

The networks' limit of candidates before NMS (`nms_pre`, for each level) is not applied, which
matters only where more boxes of a level than that have a score above `score_thr`.
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
        boxes = torch.as_tensor(outputs[f'{prefix}boxes'][index])
        scores = torch.as_tensor(outputs[f'{prefix}scores'][index])
        found.append(_after_nms(boxes / torch.tensor([*scale, *scale]), scores, step, size))
    result = found[0] if fusion is None else DetectionEnsemble(**fusion)(found)
    temperature = metadata.get('temperature', 1.0)
    if temperature != 1:
        result.scores = tempered(result.scores, temperature, sigmoid=True)
    return result


def _after_nms(
    boxes: torch.Tensor, scores: torch.Tensor, step: Mapping[str, Any], size: tuple[int, int]
) -> InstanceData:
    from mmcv.ops import batched_nms

    if step['clip']:
        height, width = size
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    keep = scores >= step['score_thr'] if step['best_class'] else scores > step['score_thr']
    if step['best_class']:
        best = torch.zeros_like(keep)
        keep &= best.scatter(1, scores.argmax(1, keepdim=True), True)
    keep &= (boxes[:, 2:] - boxes[:, :2] > step['min_size']).all(1, keepdim=True)
    place, labels = keep.nonzero(as_tuple=True)
    found = InstanceData(bboxes=boxes[place], scores=scores[place, labels], labels=labels)
    if not len(found):
        return found
    kept, order = batched_nms(found.bboxes, found.scores, found.labels, dict(step['nms']))
    found = found[order]
    found.scores = kept[:, -1]
    most = step['max_per_img']
    return found[:most] if most > 0 else found
