from .detection_task import DetectionTask

__all__ = ['DetectionTask']
