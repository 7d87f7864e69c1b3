"""Masks of instances: how heads make them of their outputs, and how they become a truth."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

# Logits (M, h, w) of the masks at positions (M,) of images (M,), of classes (M,).
MaskMaker = Callable[[Tensor, Tensor, Tensor], Tensor]


class LastCall:
    """A forward hook that keeps what a module was last called with and what it returned.

    For what a reader needs beside its tap's output, as its argument `call`. It keeps something
    while the tap records (`recorder`, which the tap sets), and is emptied when the tap is read.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.output: Any = None
        self.called = False
        self.recorder: Any = None

    def __call__(
        self, module: Any, args: Any, inputs: Mapping[str, Any], output: Any = None
    ) -> None:
        """Keep a call, as torch calls a forward hook."""
        if self.recorder is not None and self.recorder.enabled:
            self.inputs, self.output, self.called = dict(inputs), output, True
            if self.recorder.then is not None:
                self.recorder.then()

    def __deepcopy__(self, memo: dict[int, Any]) -> 'LastCall':
        copied = memo[id(self)] = type(self)()  # empty
        copied.recorder = deepcopy(self.recorder, memo)
        return copied

    def pop(self) -> tuple[dict[str, Any], Any]:
        """Return keyword arguments and output of the last call, and forget them."""
        found = self.inputs, self.output
        self.inputs, self.output, self.called = {}, None, False
        return found


def image_size(meta: Mapping[str, Any]) -> tuple[int, int]:
    """Return the height and width of an image in its batch, padding included."""
    height, width = meta.get('batch_input_shape', meta['img_shape'])[:2]
    return int(height), int(width)


def by_image(images: Tensor, make: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Make values image by image, and return them in the given order.

    Args:
        images: Of each value its image (M,).
        make: Called with an image and which of the M values are of it; returns theirs. M = 0: it is
            called once, for the first image.
    """
    places = [torch.where(images == i)[0] for i in images.unique().tolist()]
    if not places:
        return make(0, images)
    values = torch.cat([make(int(images[place[0]]), place) for place in places])
    return values[torch.cat(places).argsort()]


def full_size(logits: Tensor, stride: float, size: tuple[int, int]) -> Tensor:
    """Return the masks (M, H, W) of logits (M, h, w) on a grid of `stride` pixels."""
    if not len(logits):
        return torch.zeros((0, *size), dtype=torch.bool, device=logits.device)
    grown = F.interpolate(
        logits[None].float(), scale_factor=stride, mode='bilinear', align_corners=False
    )[0]
    rows, columns = (max(0, n - have) for n, have in zip(size, grown.shape[-2:]))
    return F.pad(grown, (0, columns, 0, rows), value=-1.0)[:, : size[0], : size[1]] > 0


def boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes (M, 4), xyxy, around masks (M, H, W); empty ones have none.

    As mmdet's `mask2bbox`, which asks the device for each mask.
    """
    found = []
    for dim in (1, 2):  # columns, rows
        marked = masks.any(dim).int()
        found.append((marked.argmax(1), marked.shape[1] - marked.flip(1).argmax(1)))
    (left, right), (top, bottom) = found
    return (
        torch.stack([left, top, right, bottom], 1) * masks.flatten(1).any(1, keepdim=True).float()
    )


def as_bitmaps(
    truth: Sequence[InstanceData], image_metas: Sequence[Mapping[str, Any]]
) -> list[InstanceData]:
    """Give a truth's masks the form that heads' losses take.

    Args:
        truth: bboxes, labels and perhaps masks (M, H, W) of each image. Without masks each box is
            filled with one, for heads that ask for masks; their mask loss must not count then.
        image_metas: What is known of each image.
    """
    given = []
    for instances, meta in zip(truth, image_metas):
        height, width = image_size(meta)
        masks = instances.masks if 'masks' in instances else _filled(instances, height, width)
        copy = InstanceData(**dict(instances.items()))
        copy.masks = BitmapMasks(masks.cpu().numpy().astype('uint8'), height, width)
        given.append(copy)
    return given


def _filled(instances: InstanceData, height: int, width: int) -> Tensor:
    rows = torch.arange(height)[None, :, None] + 0.5
    columns = torch.arange(width)[None, None, :] + 0.5
    left, top, right, bottom = (x[:, None, None] for x in instances.bboxes.cpu().unbind(1))
    return (columns > left) & (columns < right) & (rows > top) & (rows < bottom)
