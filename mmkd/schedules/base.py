import inspect
from typing import Any

from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError


class Schedule:
    """A pure function of training progress: the factor of a link's weight.

    Call it with the share of training done, in [0, 1] (values outside are clamped), and the whole
    number of iterations; it returns a float >= 0. A subclass implements `value` and is registered
    in `mmkd.registry.SCHEDULES`. If its `value` names `max_iters`, it gets that number, too: None
    where there is no training (`tools/benchmark.py`, a model by itself).

    Examples:
        >>> @SCHEDULES.register_module()
        ... class Square(Schedule):
        ...     def value(self, progress: float) -> float:
        ...         return progress**2
        >>> Square()(0.5)
        0.25
    """

    _names_max_iters = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._names_max_iters = 'max_iters' in inspect.signature(cls.value).parameters

    def __call__(self, progress: float, max_iters: int | None = None) -> float:
        """Return the value at `progress`, clamped to [0, 1], of `max_iters` iterations.

        Raises:
            ConfigError: For a value that is no finite number >= 0.
        """
        given: dict[str, Any] = dict(max_iters=max_iters) if self._names_max_iters else {}
        value = float(self.value(min(max(progress, 0.0), 1.0), **given))
        check_number(value, f'{type(self).__name__} at progress {progress:g}')
        return value

    def value(self, progress: float) -> float:
        """Return the value at `progress` in [0, 1]."""
        raise NotImplementedError


class Ramp(Schedule):
    """A schedule that goes from one value to another between two shares of progress.

    Args:
        start_value: Value up to `begin`. Default: 0.
        end_value: Value from `end` on. Default: 1.
        begin: Share of progress at which the ramp starts. Default: 0.
        end: Share of progress at which it ends. Default: 1.

    Raises:
        ConfigError: Unless 0 <= begin < end <= 1 and both values are finite numbers >= 0.
    """

    def __init__(
        self,
        start_value: float = 0.0,
        end_value: float = 1.0,
        begin: float = 0.0,
        end: float = 1.0,
    ) -> None:
        if not 0 <= begin < end <= 1:
            raise ConfigError(f'begin, end: expected 0 <= begin < end <= 1, got {begin}, {end}')
        check_number(start_value, 'start_value')
        check_number(end_value, 'end_value')
        self.start_value, self.end_value, self.begin, self.end = start_value, end_value, begin, end

    def shape(self, t: float) -> float:
        """Return the share of the way done at t in [0, 1) between begin and end."""
        raise NotImplementedError

    def value(self, progress: float) -> float:
        """Return the value at `progress` in [0, 1]."""
        if progress >= self.end:
            return self.end_value
        t = max(progress - self.begin, 0.0) / (self.end - self.begin)
        return self.start_value + (self.end_value - self.start_value) * self.shape(t)
