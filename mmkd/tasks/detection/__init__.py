from .detection_task import DetectionTask
from .readers import prediction_reader
from .structures import DensePrediction

__all__ = ['DensePrediction', 'DetectionTask', 'prediction_reader']
