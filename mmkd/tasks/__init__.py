from mmkd.utils.packages import installed

from .base import Task, task_of
from .drawing import TaskDrawing
from .mixing import TaskMixing

if installed('mmdet'):
    from .detection import DetectionTask, prediction_reader  # noqa: F401
if installed('mmseg'):
    from .segmentation import SegmentationTask  # noqa: F401
if installed('mmpretrain'):
    from .classification import ClassificationTask  # noqa: F401

__all__ = ['Task', 'TaskDrawing', 'TaskMixing', 'task_of']
