"""How a dense head's raw output becomes a `DensePrediction`. Another head: add its function to `READERS`."""

import torch
from mmdet.models.dense_heads import RTMDetHead, YOLOXHead
from mmdet.structures.bbox import distance2bbox

from mmkd.tasks.detection.structures import DensePrediction
from mmkd.utils.checks import choose


def flatten_levels(maps):
    """Join maps [(N, C, H_l, W_l)] of several levels to (N, P, C), P = sum of H_l * W_l."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def grid_points(head, maps):
    """Return the head's prior points of all levels: (P, 4) of x, y, stride, stride in pixels."""
    return torch.cat(
        head.prior_generator.grid_priors(
            [m.shape[-2:] for m in maps],
            dtype=torch.float32,
            device=maps[0].device,
            with_stride=True,
        )
    )


def read_yolox(head, output):
    """YOLOX: class and objectness logits, boxes by centre offset and log size in units of the stride."""
    classes, boxes, objectness = output
    boxes = flatten_levels(boxes).float()
    # The head takes the sizes' exponential: beyond 1e5 strides it is held, or its gradient would be infinite times zero.
    boxes = torch.cat([boxes[..., :2], boxes[..., 2:].clamp(max=11.5)], dim=-1)
    decoded = head._bbox_decode(grid_points(head, classes), boxes)
    return DensePrediction(flatten_levels(classes), flatten_levels(objectness).squeeze(-1), decoded)


def read_rtmdet(head, output):
    """RTMDet: class logits (objectness, if any, already multiplied in), boxes by distances in pixels."""
    classes, distances = output
    points = grid_points(head, classes)[:, :2]
    distances = flatten_levels(distances).float()
    return DensePrediction(
        flatten_levels(classes),
        None,
        distance2bbox(points.expand(len(distances), -1, -1), distances),
    )


READERS = {YOLOXHead: read_yolox, RTMDetHead: read_rtmdet}


def reader_of(head, key):
    """Return the function for the class of `head` (or for a base class of it).

    Raises:
        ValueError: If there is none.
    """
    for cls, reader in READERS.items():
        if isinstance(head, cls):
            return reader
    return choose(
        type(head).__name__,
        [cls.__name__ for cls in READERS],
        f"{key}: the 'prediction' tap reads the dense heads named here (mmkd/tasks/detection/dense_heads.py has "
        'the room for others)',
    )
