from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor
from typing_extensions import override

from ..drawing import WRONG, Color, Size, TaskDrawing

if TYPE_CHECKING:
    from .segmentation_task import SegmentationTask

IGNORED: Color = (128, 128, 128)


class SegmentationDrawing(TaskDrawing):
    """Label maps over the image: the foreground of two classes, each class's color of more.

    Pixels without a label are hatched gray in the ground truth and left out of the disagreement.
    """

    task: SegmentationTask

    @override
    def gt_of(self, dataset: Any, index: int, sample: BaseDataElement) -> BaseDataElement:
        gt = sample.new()
        gt.pred_sem_seg = sample.gt_sem_seg
        return gt

    @override
    def draw(
        self,
        canvas: Visualizer,
        size: Size,
        sample: BaseDataElement,
        color: Color,
        metainfo: Mapping[str, Any],
    ) -> None:
        classes = _map_of(sample.pred_sem_seg, size)
        for label, own in _colors(metainfo, color).items():
            if (classes == label).any():
                canvas.draw_binary_masks(classes == label, colors=own, alphas=0.5)
        ignored = classes == self.task.ignore_index
        if ignored.any():
            canvas.draw_binary_masks(ignored & _hatching(size), colors=IGNORED, alphas=0.9)

    @override
    def draw_disagreement(
        self,
        canvas: Visualizer,
        size: Size,
        samples: Mapping[str, BaseDataElement],
        colors: Sequence[Color],
        metainfo: Mapping[str, Any],
    ) -> None:
        maps = np.stack([_map_of(sample.pred_sem_seg, size) for sample in samples.values()])
        differ = (maps != maps[0]).any(0)
        gt = next(iter(samples.values())).get('gt_sem_seg')
        if gt is not None:
            differ &= _map_of(gt, size) != self.task.ignore_index
        if differ.any():
            canvas.draw_binary_masks(differ, colors=WRONG, alphas=0.8)

    @override
    def remark(
        self, sample: BaseDataElement, gt: BaseDataElement, metainfo: Mapping[str, Any]
    ) -> tuple[str, bool | None]:
        # IoU of the foreground, or the mean over the classes that the image or the prediction has.
        size = tuple(gt.pred_sem_seg.data.shape[-2:])
        own, true = _map_of(sample.pred_sem_seg, size), _map_of(gt.pred_sem_seg, size)
        valid = true != self.task.ignore_index
        if len(metainfo['classes']) == 2:
            labels = [1]
        else:
            labels = np.unique([true[valid], own[valid]]).tolist()
        overlaps = []
        for label in labels:
            one, other = (own == label) & valid, (true == label) & valid
            if (one | other).any():
                overlaps.append((one & other).sum() / (one | other).sum())
        return (f'IoU {np.mean(overlaps):.2f}' if overlaps else '', None)

    @override
    def legend(self, metainfo: Mapping[str, Any]) -> dict[str, Color]:
        if len(metainfo['classes']) == 2 or not metainfo.get('palette'):
            return {}
        return {metainfo['classes'][label]: own for label, own in _colors(metainfo, WRONG).items()}

    @override
    def probability_map(self, prediction: Any) -> Tensor | None:
        if not isinstance(prediction, Tensor) or prediction.dim() != 4:
            return None
        if prediction.shape[1] == 1:
            return prediction.sigmoid()
        probabilities = prediction.softmax(1)
        return probabilities[:, 1:] if prediction.shape[1] == 2 else probabilities.amax(1, True)


def _map_of(field: Any, size: Size) -> np.ndarray:
    """Return a label map (1, H, W) as an array (H, W) at the drawn `size`."""
    classes = field.data.squeeze(0).cpu().numpy().astype(np.uint8)
    return cv2.resize(classes, size[::-1], interpolation=cv2.INTER_NEAREST)


def _colors(metainfo: Mapping[str, Any], color: Color) -> dict[int, Color]:
    """Return the color of each drawn class: the member's for the foreground of two."""
    classes, palette = metainfo['classes'], metainfo.get('palette') or []
    if len(classes) == 2 or not palette:
        return dict.fromkeys(range(1 if len(classes) == 2 else 0, len(classes)), color)
    return {label: tuple(palette[label]) for label in range(len(classes))}


def _hatching(size: Size) -> np.ndarray:
    rows, columns = np.indices(size)
    return (rows + columns) % 8 < 2
