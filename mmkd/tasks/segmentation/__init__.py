from .segmentation_task import SegmentationTask

__all__ = ['SegmentationTask']
