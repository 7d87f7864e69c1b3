import bisect

from mmkd.registry import SCHEDULES

from .base import Schedule


@SCHEDULES.register_module()
class Step(Schedule):
    """Constant pieces.

    Args:
        milestones (list[float]): Ascending shares of progress in (0, 1] at which the value changes.
        values (list[float]): One more than milestones.

    Raises:
        ValueError: If they do not fit together.
    """

    def __init__(self, milestones, values):
        if (
            len(values) != len(milestones) + 1
            or sorted(set(milestones)) != list(milestones)
            or not all(0 < m <= 1 for m in milestones)
        ):
            raise ValueError(
                f'milestones, values: expected ascending milestones in (0, 1] and one value more, got {milestones}, '
                f'{values}'
            )
        self.milestones, self.values = list(milestones), list(values)

    def value(self, progress):
        return self.values[bisect.bisect_right(self.milestones, progress)]

    def is_over(self, progress):
        return not any(self.values[bisect.bisect_right(self.milestones, progress) :])
