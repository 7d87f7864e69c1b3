from .base import Combiner
from .mean import MeanLogits, MeanProbability

__all__ = ['Combiner', 'MeanLogits', 'MeanProbability']
