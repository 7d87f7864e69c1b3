from mmkd.registry import SCHEDULES

from .base import Ramp


@SCHEDULES.register_module()
class Linear(Ramp):
    """A straight ramp."""

    __doc__ += Ramp.__doc__

    def shape(self, t):
        return t
