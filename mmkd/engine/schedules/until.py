from mmkd.registry import SCHEDULES
from mmkd.utils.checks import build_checked

from .base import Schedule


@SCHEDULES.register_module()
class Until(Schedule):
    """Another schedule's value (or 1) before `end`, 0 from there on.

    Args:
        end (float): Share of progress in (0, 1].
        schedule (dict, optional): Config of the other schedule.
    """

    def __init__(self, end, schedule=None):
        if not 0 < end <= 1:
            raise ValueError(f'end: expected a share of progress in (0, 1], got {end}')
        self.end = end
        self.schedule = None if schedule is None else build_checked(SCHEDULES, schedule, 'schedule')

    def value(self, progress):
        if progress >= self.end:
            return 0.0
        return 1.0 if self.schedule is None else self.schedule(progress)

    def is_over(self, progress):
        return progress >= self.end or (
            self.schedule is not None and self.schedule.is_over(progress)
        )
