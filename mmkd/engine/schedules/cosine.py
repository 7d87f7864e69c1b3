import math

from mmkd.registry import SCHEDULES

from .base import Ramp


@SCHEDULES.register_module()
class Cosine(Ramp):
    """A ramp of half a cosine: (1 - cos(pi t)) / 2."""

    __doc__ += Ramp.__doc__

    def shape(self, t):
        return (1 - math.cos(math.pi * t)) / 2
