from .base import Task, task_of
from .drawing import TaskDrawing
from .mixing import TaskMixing

__all__ = ['Task', 'TaskDrawing', 'TaskMixing', 'task_of']
