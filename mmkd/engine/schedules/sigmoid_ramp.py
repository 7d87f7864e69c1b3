import math

from mmkd.registry import SCHEDULES

from .base import Ramp


@SCHEDULES.register_module()
class SigmoidRamp(Ramp):
    """The ramp exp(-5 (1 - t)^2) of Laine & Aila, "Temporal Ensembling" (arXiv 1610.02242).

    It goes from 0.0067 (of the way, up to `begin` too) to 1.
    """

    __doc__ += Ramp.__doc__

    def shape(self, t):
        return math.exp(-5 * (1 - t) ** 2)
