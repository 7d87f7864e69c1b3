from .attention import Attention
from .base import Combiner
from .gate import Gate
from .kdcl import LowestLoss, MinLogit
from .mean import MeanLogits, MeanProbability

__all__ = [
    'Attention',
    'Combiner',
    'Gate',
    'LowestLoss',
    'MeanLogits',
    'MeanProbability',
    'MinLogit',
]
