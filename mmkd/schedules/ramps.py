import math

from mmkd.registry import SCHEDULES

from .base import Ramp


@SCHEDULES.register_module()
class Linear(Ramp):
    """A straight ramp. Arguments: see `Ramp`."""

    def shape(self, t: float) -> float:
        """Return t."""
        return t


@SCHEDULES.register_module()
class Cosine(Ramp):
    """A ramp of half a cosine, (1 - cos(pi t)) / 2. Arguments: see `Ramp`."""

    def shape(self, t: float) -> float:
        """Return the share of the way done at t."""
        return (1 - math.cos(math.pi * t)) / 2


@SCHEDULES.register_module()
class SigmoidRamp(Ramp):
    """The ramp exp(-5 (1 - t)^2) of Laine & Aila, "Temporal Ensembling" (arXiv 1610.02242).

    Starts at exp(-5) = 0.0067 (also before `begin`) and reaches 1 at `end`. Arguments: see `Ramp`.
    """

    def shape(self, t: float) -> float:
        """Return the share of the way done at t."""
        return math.exp(-5 * (1 - t) ** 2)
