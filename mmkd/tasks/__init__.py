from .base import Task, task_of

__all__ = ['Task', 'task_of']
