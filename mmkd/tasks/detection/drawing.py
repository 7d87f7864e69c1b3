from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from torch import Tensor
from typing_extensions import override

from ..drawing import Color, Size, TaskDrawing

DRAWN_SCORE = 0.3


class DetectionDrawing(TaskDrawing):
    """Boxes with class (where there are several) and score.

    Attributes:
        least_score: Boxes with a lower score are not drawn.
    """

    least_score = DRAWN_SCORE

    @override
    def gt_of(self, dataset: Any, index: int, sample: DetDataSample) -> DetDataSample:
        # The file's own boxes: whether a sample's are resized depends on the pipeline.
        instances = dataset.get_data_info(index)['instances']
        gt = sample.new()
        gt.pred_instances = InstanceData(
            bboxes=torch.tensor([instance['bbox'] for instance in instances]).reshape(-1, 4),
            labels=torch.tensor(
                [instance['bbox_label'] for instance in instances], dtype=torch.long
            ),
        )
        return gt

    @override
    def draw(
        self,
        canvas: Visualizer,
        size: Size,
        sample: DetDataSample,
        color: Color,
        metainfo: Mapping[str, Any],
    ) -> None:
        found = sample.pred_instances
        if 'scores' in found:
            found = found[found.scores >= self.least_score]
        if not len(found):
            return
        boxes = _scaled(found.bboxes, size, sample)
        canvas.draw_bboxes(boxes, edge_colors=color)
        classes = metainfo['classes']
        words = [
            [classes[label]] if len(classes) > 1 and label < len(classes) else []
            for label in found.labels.tolist()
        ]
        if 'scores' in found:
            words = [w + [f'{score:.2f}'] for w, score in zip(words, found.scores.tolist())]
        if any(words):
            canvas.draw_texts(
                [' '.join(w) for w in words],
                boxes[:, :2],
                colors=color,
                font_sizes=9,
                bboxes=dict(facecolor='black', alpha=0.6, edgecolor='none', pad=0.8),
            )

    @override
    def draw_disagreement(
        self,
        canvas: Visualizer,
        size: Size,
        samples: Mapping[str, DetDataSample],
        colors: Sequence[Color],
        metainfo: Mapping[str, Any],
    ) -> None:
        # Boxes of a member that no box of another member overlaps by half.
        found = {
            name: s.pred_instances[s.pred_instances.scores >= self.least_score].bboxes
            for name, s in samples.items()
        }
        for (name, boxes), color in zip(found.items(), colors):
            alone = torch.zeros(len(boxes), dtype=torch.bool)
            for other, theirs in found.items():
                if other == name:
                    continue
                if len(theirs):
                    alone |= bbox_overlaps(boxes, theirs).amax(1) < 0.5
                else:
                    alone[:] = True
            if alone.any():
                canvas.draw_bboxes(_scaled(boxes[alone], size, samples[name]), edge_colors=color)


def _scaled(boxes: Tensor, size: Size, sample: DetDataSample) -> Tensor:
    """Bring boxes in pixels of the file to an image drawn at `size`."""
    height, width = sample.ori_shape[:2]
    limits = boxes.new_tensor([size[1], size[0]] * 2)
    return (boxes * limits / boxes.new_tensor([width, height] * 2)).clamp(min=0).minimum(limits)
