from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.visualization import Visualizer
from mmpretrain.structures import DataSample
from typing_extensions import override

from ..drawing import WRONG, Color, Size, TaskDrawing

BOX = dict(facecolor='black', alpha=0.6, edgecolor='none')


class ClassificationDrawing(TaskDrawing):
    """The predicted labels and their scores, written into the image."""

    @override
    def gt_of(self, dataset: Any, index: int, sample: DataSample) -> DataSample:
        return sample.clone().set_pred_label(sample.gt_label)

    @override
    def draw(
        self,
        canvas: Visualizer,
        size: Size,
        sample: DataSample,
        color: Color,
        metainfo: Mapping[str, Any],
    ) -> None:
        lines = []
        for label in sample.pred_label.tolist():
            score = f' {sample.pred_score[label]:.2f}' if 'pred_score' in sample else ''
            lines.append(f'{metainfo["classes"][label]}{score}')
        canvas.draw_texts(
            '\n'.join(lines), np.array([6, 6]), colors=color, font_sizes=11, bboxes=BOX
        )

    @override
    def draw_disagreement(
        self,
        canvas: Visualizer,
        size: Size,
        samples: Mapping[str, DataSample],
        colors: Sequence[Color],
        metainfo: Mapping[str, Any],
    ) -> None:
        said = {
            name: [metainfo['classes'][label] for label in sorted(s.pred_label.tolist())]
            for name, s in samples.items()
        }
        if len({tuple(labels) for labels in said.values()}) > 1:
            text = '\n'.join(f'{name}: {", ".join(labels)}' for name, labels in said.items())
            canvas.draw_texts(text, np.array([6, 6]), colors=WRONG, font_sizes=9, bboxes=BOX)

    @override
    def remark(
        self, sample: DataSample, gt: DataSample, metainfo: Mapping[str, Any]
    ) -> tuple[str, bool | None]:
        right = set(sample.pred_label.tolist()) == set(gt.pred_label.tolist())
        return 'right' if right else 'wrong', right
