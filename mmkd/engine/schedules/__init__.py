from .base import Schedule
from .constant import Constant
from .cosine import Cosine
from .linear import Linear
from .sigmoid_ramp import SigmoidRamp
from .step import Step
from .until import Until

__all__ = ['Constant', 'Cosine', 'Linear', 'Schedule', 'SigmoidRamp', 'Step', 'Until']
