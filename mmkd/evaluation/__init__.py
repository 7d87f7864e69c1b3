from .binary_classification import BinaryClassification
from .calibration import Calibration
from .class_table import ClassTable
from .dump_seg_results import DumpSegResults
from .polyp_det_metric import PolypDetMetric
from .polyp_seg_metric import PolypSegMetric
from .seen_unseen_evaluator import SeenUnseenEvaluator

__all__ = [
    'BinaryClassification',
    'Calibration',
    'ClassTable',
    'DumpSegResults',
    'PolypDetMetric',
    'PolypSegMetric',
    'SeenUnseenEvaluator',
]
