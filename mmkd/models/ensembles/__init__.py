from .detection_ensemble import DetectionEnsemble

__all__ = ['DetectionEnsemble']
