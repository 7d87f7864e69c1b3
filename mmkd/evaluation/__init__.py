from .binary_classification import BinaryClassification
from .polyp_seg_metric import PolypSegMetric

__all__ = ['BinaryClassification', 'PolypSegMetric']
