from .base import WeightRule, tap_gradient
from .gradient_share import GradientShare
from .guard import NegativeTransferGuard

__all__ = ['GradientShare', 'NegativeTransferGuard', 'WeightRule', 'tap_gradient']
