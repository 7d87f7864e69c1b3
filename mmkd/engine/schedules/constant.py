from mmkd.registry import SCHEDULES

from .base import Schedule


@SCHEDULES.register_module()
class Constant(Schedule):
    """One value throughout.

    Args:
        value (float): Default: 1.
    """

    def __init__(self, value=1.0):
        self.constant = value

    def value(self, progress):
        return self.constant

    def is_over(self, progress):
        return self.constant == 0
