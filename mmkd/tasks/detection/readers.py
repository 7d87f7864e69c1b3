"""How a dense head's raw output becomes a `DensePrediction`.

A reader is registered for a head's class and serves its subclasses; the nearest class wins.
A project adds one for a head of its own in any module that its config imports:

    from mmkd.tasks.detection import DensePrediction, prediction_reader

    @prediction_reader.register(MyHead)
    def read_my_head(head, output):
        classes, boxes = output  # of `head(features)`, in training mode too
        return DensePrediction(cls_logits=..., obj_logits=None, boxes=...)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from mmdet.models.dense_heads import (
    ATSSHead,
    ATSSVLFusionHead,
    AutoAssignHead,
    CenterNetHead,
    CenterNetUpdateHead,
    DDODHead,
    FCOSHead,
    GFLHead,
    RetinaHead,
    RetinaSepBNHead,
    RPNHead,
    RTMDetHead,
    SSDHead,
    TOODHead,
    VFNetHead,
    YOLOFHead,
    YOLOV3Head,
    YOLOXHead,
)
from mmdet.structures.bbox import distance2bbox
from torch import Tensor
from torch.nn import functional as F

from mmkd.utils.errors import ConfigError

from ..types import TapReader
from .structures import DensePrediction

AS_PREDICTED = ContextVar('as_predicted', default=False)  # see `boxes_as_predicted`
CENTERNET_STRIDE = 4  # "output stride of R = 4" (Zhou et al., arXiv 1904.07850, section 3)


@singledispatch
def prediction_reader(head: Any, output: Any) -> DensePrediction:
    """Read what a dense head's `forward` returned; dispatches on the head's class.

    Args:
        head: The dense head.
        output: What calling it gave, in training or in eval mode.

    Raises:
        ConfigError: If there is no reader for the head's class.
    """
    raise ConfigError(_missing(head))


def reader_of(head: Any, key: str) -> TapReader:
    """Return the reader for the class of `head`.

    Args:
        head: A member's dense head.
        key: Where the tap stands in the config, for the message.

    Raises:
        ConfigError: If there is none.
    """
    if prediction_reader.dispatch(type(head)) is prediction_reader.dispatch(object):
        raise ConfigError(f'{key}: {_missing(head)}')
    return read_dense


def read_dense(head: Any, output: Any) -> DensePrediction:
    """Read a dense head's output, and keep it for the head's own loss of a second truth."""
    strides = getattr(getattr(head, 'prior_generator', None), 'strides', None)
    levels = tuple(strides) if strides else None
    return replace(prediction_reader(head, output), head=head, outputs=output, strides=levels)


def _missing(head: Any) -> str:
    default = prediction_reader.dispatch(object)
    known = [cls.__name__ for cls, fn in prediction_reader.registry.items() if fn is not default]
    return (
        f"{type(head).__name__} has no reader for the 'prediction' tap; "
        f'there are readers for {", ".join(sorted(known))} and their subclasses. Another one is '
        'added by mmkd.tasks.detection.prediction_reader.register, or tap the features '
        "('feature')"
    )


def flatten_levels(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Join maps [(N, A * channels, H_l, W_l)] of several levels to (N, P, channels).

    P = sum of H_l * W_l * A, in the order of mmdet's priors: level, row, column, anchor.
    """
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps], dim=1)


def priors_of(head: Any, maps: Sequence[Tensor], **options: Any) -> Tensor:
    """Return the head's points or anchors of all levels, (P, 2) or (P, 4) in pixels."""
    sizes = [m.shape[-2:] for m in maps]
    device = maps[0].device
    priors = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device=device, **options)
    return torch.cat(priors)


def class_logits(head: Any, maps: Sequence[Tensor]) -> Tensor:
    """Return the log-odds of each class (N, P, C) of a head with sigmoid or softmax classes."""
    return log_odds(flatten_levels(maps, head.cls_out_channels), head.use_sigmoid_cls)


def log_odds(logits: Tensor, use_sigmoid: bool) -> Tensor:
    """Return the log-odds of each class (N, P, C) of a sigmoid's logits, or of a softmax's."""
    if use_sigmoid:
        return logits
    # The last class is the background. log(1 - p) is exact where p is small and finite at p = 1.
    log_p = F.log_softmax(logits.float(), dim=-1)[..., :-1].clamp(max=-1e-7)
    return log_p - torch.log(-torch.expm1(log_p))


def decode_boxes(head: Any, priors: Tensor, deltas: Tensor) -> Tensor:
    """Decode what the head regressed (N, P, 4) to boxes (N, P, 4) by its own box coder."""
    repeated = priors.repeat(deltas.shape[0], 1)
    return head.bbox_coder.decode(repeated, deltas.reshape(-1, 4).float()).view_as(deltas)


def boxes_around(points: Tensor, distances: Tensor) -> Tensor:
    """Return boxes (N, P, 4) from distances (N, P, 4) of their sides to points (P, 2), in pixels.

    A negative distance (of a head without `exp`) would turn the box inside out, whose GIoU has no
    lower bound: it counts as 0, but within `boxes_as_predicted`.
    """
    distances = distances.float()
    if not AS_PREDICTED.get():
        distances = distances.clamp(min=0)
    return distance2bbox(points.expand(distances.shape[0], -1, -1), distances)


@contextmanager
def boxes_as_predicted() -> Iterator[None]:
    """Let readers give the very boxes that heads predict, some of which may be inside out.

    Heads leave those out by their size; with a side moved to its point they would stay.
    """
    token = AS_PREDICTED.set(True)
    try:
        yield
    finally:
        AS_PREDICTED.reset(token)


@prediction_reader.register(YOLOXHead)
def read_yolox(head: Any, output: Any) -> DensePrediction:
    """YOLOX: class and objectness logits; boxes by center offset and log size, in strides."""
    classes, boxes, objectness = output
    boxes = flatten_levels(boxes, 4).float()
    # The size is the exponential. It is held at 1e5 strides, or a gradient would be inf * 0.
    boxes = torch.cat([boxes[..., :2], boxes[..., 2:].clamp(max=11.5)], dim=-1)
    decoded = head._bbox_decode(priors_of(head, classes, with_stride=True), boxes)
    return DensePrediction(
        flatten_levels(classes, head.cls_out_channels),
        flatten_levels(objectness, 1).squeeze(-1),
        decoded,
    )


@prediction_reader.register(RTMDetHead)
def read_rtmdet(head: Any, output: Any) -> DensePrediction:
    """RTMDet: class logits (with objectness: of the geometric mean); distances in pixels.

    Of RTMDet-Ins, which also gives kernels and mask features, classes and boxes are read.
    """
    classes, distances, *_ = output
    points = priors_of(head, classes)[:, :2]
    return DensePrediction(
        flatten_levels(classes, head.cls_out_channels),
        None,
        boxes_around(points, flatten_levels(distances, 4)),
    )


@prediction_reader.register(RPNHead)
@prediction_reader.register(RetinaHead)
@prediction_reader.register(RetinaSepBNHead)
@prediction_reader.register(SSDHead)
@prediction_reader.register(YOLOFHead)
@prediction_reader.register(ATSSHead)
@prediction_reader.register(DDODHead)
def read_anchors(head: Any, output: Any) -> DensePrediction:
    """RetinaNet, SSD, YOLOF, ATSS, PAA, DDOD and the like: one position per anchor.

    SSD's classes are a softmax with background. The centerness or IoU branch (ATSS, PAA, DDOD) is
    the objectness.
    """
    classes, deltas, *factor = output
    priors = priors_of(head, classes)
    return DensePrediction(
        class_logits(head, classes),
        flatten_levels(factor[0], 1).squeeze(-1) if factor else None,
        decode_boxes(head, priors, flatten_levels(deltas, 4)),
    )


@prediction_reader.register(GFLHead)
def read_gfl(head: Any, output: Any) -> DensePrediction:
    """GFL, LD: distances in strides are the means of their distributions."""
    classes, distributions = output
    anchors = priors_of(head, classes)
    bins = 4 * (head.reg_max + 1)
    distances = torch.cat(
        [
            head.integral(flatten_levels([level], bins)).view(level.shape[0], -1, 4) * stride[0]
            for level, stride in zip(distributions, head.prior_generator.strides)
        ],
        dim=1,
    )
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    return DensePrediction(class_logits(head, classes), None, boxes_around(centers, distances))


@prediction_reader.register(FCOSHead)
def read_fcos(head: Any, output: Any) -> DensePrediction:
    """FCOS, NAS-FCOS, CondInst: class and centerness logits; distances in pixels."""
    classes, distances, centerness, *_ = output
    if head.norm_on_bbox and head.training:  # in strides, while training
        distances = [d * stride for d, stride in zip(distances, head.strides)]
    return DensePrediction(
        class_logits(head, classes),
        flatten_levels(centerness, 1).squeeze(-1),
        boxes_around(priors_of(head, classes), flatten_levels(distances, 4)),
    )


@prediction_reader.register(AutoAssignHead)
def read_auto_assign(head: Any, output: Any) -> DensePrediction:
    """AutoAssign: class and objectness logits; distances in pixels in both modes."""
    classes, distances, objectness = output
    return DensePrediction(
        class_logits(head, classes),
        flatten_levels(objectness, 1).squeeze(-1),
        boxes_around(priors_of(head, classes), flatten_levels(distances, 4)),
    )


@prediction_reader.register(VFNetHead)
def read_vfnet(head: Any, output: Any) -> DensePrediction:
    """VFNet: the refined boxes, which come after the first ones in training and alone in eval."""
    classes, distances = output[0], output[-1]
    return DensePrediction(
        class_logits(head, classes),
        None,
        boxes_around(priors_of(head, classes), flatten_levels(distances, 4)),
    )


@prediction_reader.register(TOODHead)
def read_tood(head: Any, output: Any) -> DensePrediction:
    """TOOD: class probabilities; boxes decoded already, in strides."""
    classes, boxes = output
    boxes = [level * stride[0] for level, stride in zip(boxes, head.prior_generator.strides)]
    probabilities = flatten_levels(classes, head.cls_out_channels)
    return DensePrediction(
        probabilities.float().logit(eps=1e-6), None, flatten_levels(boxes, 4).float()
    )


@prediction_reader.register(YOLOV3Head)
def read_yolov3(head: Any, output: Any) -> DensePrediction:
    """YOLOv3: center offset, log size, objectness and classes of each anchor in one map."""
    (maps,) = output
    values = flatten_levels(maps, head.num_attrib)
    deltas = torch.cat([values[..., :2].float().sigmoid(), values[..., 2:4].float()], dim=-1)
    counts = [
        m.shape[-2] * m.shape[-1] * head.prior_generator.num_base_priors[level]
        for level, m in enumerate(maps)
    ]
    strides = torch.repeat_interleave(
        values.new_tensor(head.featmap_strides), torch.tensor(counts, device=values.device)
    )
    # The coder takes the size's exponential, see `read_yolox`.
    deltas = torch.cat([deltas[..., :2], deltas[..., 2:].clamp(max=11.5)], dim=-1)
    boxes = head.bbox_coder.decode(
        priors_of(head, maps).repeat(values.shape[0], 1),
        deltas.reshape(-1, 4),
        strides.repeat(values.shape[0]).unsqueeze(-1),
    )
    return DensePrediction(values[..., 5:], values[..., 4], boxes.view(values.shape[0], -1, 4))


@prediction_reader.register(CenterNetHead)
def read_centernet(head: Any, output: Any) -> DensePrediction:
    """CenterNet: heat of each class as a probability; size and center offset in cells.

    The cells are `CENTERNET_STRIDE` pixels wide, unless the head has a `stride` of its own.
    """
    heat, sizes, offsets = (flatten_levels(maps, maps[0].shape[1]).float() for maps in output)
    cells = [
        torch.cartesian_prod(*(torch.arange(n, device=heat.device) for n in m.shape[-2:])).flip(-1)
        for m in output[0]
    ]
    centers, half = torch.cat(cells) + offsets, sizes.clamp(min=0) / 2
    boxes = torch.cat([centers - half, centers + half], dim=-1)
    return DensePrediction(
        heat.logit(eps=1e-6), None, boxes * getattr(head, 'stride', CENTERNET_STRIDE)
    )


@prediction_reader.register(CenterNetUpdateHead)
def read_centernet_update(head: Any, output: Any) -> DensePrediction:
    """CenterNet2's first stage: class logits; distances in strides while training, then pixels."""
    classes, distances = output
    if head.training:
        distances = [d * stride for d, stride in zip(distances, head.strides)]
    return DensePrediction(
        class_logits(head, classes),
        None,
        boxes_around(priors_of(head, classes), flatten_levels(distances, 4)),
    )


# Derived from heads above, but with other outputs.
prediction_reader.register(ATSSVLFusionHead, prediction_reader.dispatch(object))
