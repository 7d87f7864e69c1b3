class Schedule:
    """A pure function of training progress that scales a link's weight.

    Call it with the share of training done, in [0, 1] (values outside are clamped); it returns a float.
    """

    def __call__(self, progress):
        return float(self.value(min(max(progress, 0.0), 1.0)))

    def value(self, progress):
        """Return the value at `progress` in [0, 1]."""
        raise NotImplementedError

    def is_over(self, progress):
        """Whether the value is 0 from `progress` on."""
        return False


class Ramp(Schedule):
    """A schedule that goes from one value to another between two shares of progress, and stays there.

    Args:
        start_value (float): Value up to `begin`. Default: 0.
        end_value (float): Value from `end` on. Default: 1.
        begin (float): Default: 0.
        end (float): Default: 1.

    Raises:
        ValueError: Unless 0 <= begin < end <= 1.
    """

    def __init__(self, start_value=0.0, end_value=1.0, begin=0.0, end=1.0):
        if not 0 <= begin < end <= 1:
            raise ValueError(f'begin, end: expected 0 <= begin < end <= 1, got {begin}, {end}')
        self.start_value, self.end_value, self.begin, self.end = start_value, end_value, begin, end

    def shape(self, t):
        """Return the share of the way done at t in [0, 1) between begin and end."""
        raise NotImplementedError

    def value(self, progress):
        if progress >= self.end:
            return self.end_value
        t = max(progress - self.begin, 0.0) / (self.end - self.begin)
        return self.start_value + (self.end_value - self.start_value) * self.shape(t)

    def is_over(self, progress):
        return self.end_value == 0 and progress >= self.end
