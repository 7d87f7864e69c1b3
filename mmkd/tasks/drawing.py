from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor

if TYPE_CHECKING:
    from .base import Task

Color = tuple[int, int, int]  # RGB
Size = tuple[int, int]  # height, width

WRONG: Color = (255, 23, 68)  # where members disagree, and what is wrong


class TaskDrawing(ABC):
    """How a task's ground truth and predictions are drawn.

    A task offers it as its attribute `drawing`.

    Args:
        task: The task.

    Examples:
        >>> class PoseDrawing(TaskDrawing):
        ...     def draw(self, canvas, size, sample, color, metainfo):
        ...         canvas.draw_points(scaled(sample.pred_instances.keypoints, size), colors=color)
        ...
        ...     def draw_disagreement(self, canvas, size, samples, colors, metainfo):
        ...         for sample, color in zip(samples.values(), colors):
        ...             self.draw(canvas, size, sample, color, metainfo)
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def gt_of(self, dataset: Any, index: int, sample: BaseDataElement) -> BaseDataElement:
        """Return what `draw` takes as the ground truth of an image of a data set.

        Args:
            dataset: A data set of the task's toolbox.
            index: Which image.
            sample: Its data sample.
        """
        return sample

    @abstractmethod
    def draw(
        self,
        canvas: Visualizer,
        size: Size,
        sample: BaseDataElement,
        color: Color,
        metainfo: Mapping[str, Any],
    ) -> None:
        """Draw a data sample's prediction, or the ground truth that `gt_of` gave.

        Args:
            canvas: With the image set.
            size: The drawn image's height and width.
            sample: On the CPU.
            color: The member's.
            metainfo: The data set's, with `classes`.
        """

    @abstractmethod
    def draw_disagreement(
        self,
        canvas: Visualizer,
        size: Size,
        samples: Mapping[str, BaseDataElement],
        colors: Sequence[Color],
        metainfo: Mapping[str, Any],
    ) -> None:
        """Draw where the members' predictions `samples` (by name) differ."""

    def legend(self, metainfo: Mapping[str, Any]) -> dict[str, Color]:
        """Return the colors that stand for classes, by the classes' names; empty without such."""
        return {}

    def remark(
        self, sample: BaseDataElement, gt: BaseDataElement, metainfo: Mapping[str, Any]
    ) -> tuple[str, bool | None]:
        """Judge a prediction for the title of its picture.

        Args:
            sample: A member's prediction.
            gt: What `gt_of` gave.
            metainfo: The data set's, with `classes`.

        Returns:
            A word or a score, and whether the prediction is right as a whole (None: neither).
        """
        return '', None

    def probability_map(self, prediction: Any) -> Tensor | None:
        """Return a `prediction` tap's value as probabilities (N, 1, H, W), None if it is no map.

        The probability of the foreground where there is one class and background, else that of the
        best class.
        """
        return None
