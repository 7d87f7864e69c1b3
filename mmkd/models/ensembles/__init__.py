from .base import Ensemble
from .classification_ensemble import ClassificationEnsemble
from .detection_ensemble import DetectionEnsemble
from .segmentation_ensemble import SegmentationEnsemble

__all__ = ['ClassificationEnsemble', 'DetectionEnsemble', 'Ensemble', 'SegmentationEnsemble']
