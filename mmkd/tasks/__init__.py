from mmkd.utils.packages import installed

from .base import Task, task_of

if installed('mmdet'):
    from .detection import DetectionTask  # noqa: F401
if installed('mmseg'):
    from .segmentation import SegmentationTask  # noqa: F401
if installed('mmpretrain'):
    from .classification import ClassificationTask  # noqa: F401

__all__ = ['Task', 'task_of']
