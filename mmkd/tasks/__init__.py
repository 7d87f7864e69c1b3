from .base import Task, task_of
from .detection import DetectionTask

__all__ = ['DetectionTask', 'Task', 'task_of']
