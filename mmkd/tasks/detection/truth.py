"""A source's boxes as a truth for another detector."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData

from .structures import DetectorPrediction

MOST_CANDIDATES = 1000  # of an image, before NMS


@torch.no_grad()
def truth_of(
    prediction: DetectorPrediction,
    image_metas: Sequence[dict[str, Any]],
    score_thr: float,
    nms_iou: float,
    max_per_img: int,
    masks: bool = False,
) -> list[InstanceData]:
    """Return the boxes that a detector is sure of: thresholded, cut at the image, after NMS.

    Args:
        prediction: What the detector's `prediction` tap reads.
        image_metas: What is known of each image.
        score_thr: Least score of a box.
        nms_iou: Of two boxes of a class that overlap more, the one with the lower score goes.
        max_per_img: Most boxes of an image.
        masks: Whether to make the boxes' masks, too; of a detector that has them.

    Returns:
        One per image: bboxes (M, 4) in pixels, labels (M,), scores (M,); with `masks` these, too
        (M, H, W), of the size of the batch.
    """
    if prediction.requires_grad:
        # What it keeps of its second stage is for links that learn through it.
        prediction = prediction.detach()
    found = []
    for (boxes, probabilities), meta in zip(prediction.candidates(image_metas), image_metas):
        height, width = meta['img_shape'][:2]
        scores, labels = probabilities.float().max(-1)
        boxes = boxes.float().clamp(min=0).minimum(boxes.new_tensor([width, height] * 2).float())
        keep = (scores >= score_thr) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        kept = torch.where(keep)[0]
        kept = kept[scores[kept].argsort(descending=True)[:MOST_CANDIDATES]]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if len(kept):
            _, rest = batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=nms_iou))
            rest = rest[:max_per_img]
            kept, boxes, scores, labels = kept[rest], boxes[rest], scores[rest], labels[rest]
        found.append(InstanceData(bboxes=boxes, labels=labels, scores=scores, index=kept))
    if masks:
        for each, made in zip(found, prediction.truth_masks(found, image_metas)):
            each.masks = made
    for each in found:
        del each.index
    return found
