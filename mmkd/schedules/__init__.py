from .base import Ramp, Schedule
from .pieces import Constant, Step, Trapezoid, Until
from .ramps import Cosine, Linear, SigmoidRamp

__all__ = [
    'Constant',
    'Cosine',
    'Linear',
    'Ramp',
    'Schedule',
    'SigmoidRamp',
    'Step',
    'Trapezoid',
    'Until',
]
