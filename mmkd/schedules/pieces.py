import bisect
import math
from collections.abc import Sequence
from typing import Any

from mmkd.registry import SCHEDULES
from mmkd.utils.checks import build_checked, check_integer, check_number
from mmkd.utils.errors import ConfigError

from .base import Schedule

# Of sums of shares.
ROUNDING = 1e-9


@SCHEDULES.register_module()
class Constant(Schedule):
    """One value throughout.

    Args:
        value: The value. Default: 1.
    """

    def __init__(self, value: float = 1.0) -> None:
        check_number(value, 'value')
        self.constant = value

    def value(self, progress: float) -> float:
        """Return the value."""
        return self.constant


@SCHEDULES.register_module()
class Step(Schedule):
    """Piecewise-constant schedule.

    Args:
        milestones: Ascending shares of progress in (0, 1] at which the value changes.
        values: `len(milestones) + 1` values.

    Raises:
        ConfigError: If they do not fit together.
    """

    def __init__(self, milestones: Sequence[float], values: Sequence[float]) -> None:
        ascending = sorted(set(milestones)) == list(milestones)
        inside = all(0 < m <= 1 for m in milestones)
        if len(values) != len(milestones) + 1 or not ascending or not inside:
            raise ConfigError(
                'milestones, values: expected ascending milestones in (0, 1] and one value more, '
                f'got {milestones}, {values}'
            )
        for value in values:
            check_number(value, 'values')
        self.milestones, self.values = list(milestones), list(values)

    def value(self, progress: float) -> float:
        """Return the value of the piece that `progress` is in."""
        return self.values[bisect.bisect_right(self.milestones, progress)]


@SCHEDULES.register_module()
class Until(Schedule):
    """Another schedule's value (or 1) before `end`, 0 from there on.

    Args:
        end: Share of progress in (0, 1].
        schedule: Config of the other schedule. Default: constant 1.
    """

    def __init__(self, end: float, schedule: dict[str, Any] | str | None = None) -> None:
        if not 0 < end <= 1:
            raise ConfigError(f'end: expected a share of progress in (0, 1], got {end}')
        self.end = end
        self.schedule: Schedule = (
            Constant() if schedule is None else build_checked(SCHEDULES, schedule, 'schedule')
        )

    def value(self, progress: float, max_iters: int | None = None) -> float:
        """Return the other schedule's value before `end`, then 0."""
        return 0.0 if progress >= self.end else self.schedule(progress, max_iters)


@SCHEDULES.register_module()
class Trapezoid(Schedule):
    """Warm up linearly, hold at 1, then fall to `end_value` along half a cosine.

    What most distillation recipes do: a short warm-up (DKD: 20 of 240 epochs), and a decay at the
    end so that the labels have the last word (YOLOv6: cosine to 0.01; RTMDet: off for the last
    20 of 300 epochs). The shape's three pieces are mmkd's choice.

    Iterations are counted as the training loop does (each a batch, also where gradients of several
    are accumulated). Where there is no training whose length would be known, they count as over.

    Args:
        warmup: Share of progress over which the value rises from 0 to 1. Default: 0.05, where
            `warmup_iters` is not given.
        begin: Share of progress before which the value is 0; the warm-up starts there. Default: 0,
            where `begin_iters` is not given.
        decay: Share of progress, at the end, over which the value falls. Default: 0.2.
        end_value: Value at the end. Default: 0.
        warmup_iters: In place of `warmup`: iterations over which the value rises.
        begin_iters: In place of `begin`: iterations before which the value is 0.

    Raises:
        ConfigError: Unless all are >= 0 and begin + warmup + decay <= 1, or if one is given both
            as a share and in iterations; at the first step if the training has too few iterations.
    """

    def __init__(
        self,
        warmup: float | None = None,
        begin: float | None = None,
        decay: float = 0.2,
        end_value: float = 0.0,
        warmup_iters: int | None = None,
        begin_iters: int | None = None,
    ) -> None:
        self.warmup_iters, self.begin_iters = warmup_iters, begin_iters
        for name, share, iters in (
            ('warmup', warmup, warmup_iters),
            ('begin', begin, begin_iters),
        ):
            if iters is None:
                continue
            check_integer(iters, f'{name}_iters', least=0)
            if share is not None:
                raise ConfigError(
                    f'{name}, {name}_iters: expected one of them, got {share} and {iters}'
                )
        if warmup is None:
            warmup = 0.05 if warmup_iters is None else 0.0
        begin = 0.0 if begin is None else begin
        for name, value in (('warmup', warmup), ('begin', begin), ('decay', decay)):
            check_number(value, name)
        check_number(end_value, 'end_value')
        if begin + warmup + decay > 1 + ROUNDING:
            raise ConfigError(
                'begin, warmup, decay: expected shares of progress with a sum of at most 1, got '
                f'{begin} + {warmup} + {decay} (in iterations: begin_iters, warmup_iters)'
            )
        self.warmup, self.begin, self.decay, self.end_value = warmup, begin, decay, end_value

    def shares(self, max_iters: int | None) -> tuple[float, float]:
        """Return begin and warm-up as shares of a training of `max_iters` iterations.

        Raises:
            ConfigError: If they and the decay do not fit into it.
        """
        if self.begin_iters is None and self.warmup_iters is None:
            return self.begin, self.warmup
        whole = max_iters or math.inf
        begin = self.begin if self.begin_iters is None else self.begin_iters / whole
        warmup = self.warmup if self.warmup_iters is None else self.warmup_iters / whole
        if begin + warmup + self.decay > 1 + ROUNDING:
            names = [
                name if iters is None else f'{name}_iters'
                for name, iters in (('begin', self.begin_iters), ('warmup', self.warmup_iters))
            ]
            raise ConfigError(
                f'{", ".join(names)}, decay: expected to fit into a training of {max_iters} '
                f'iterations, got shares of {begin:g} + {warmup:g} + {self.decay:g}'
            )
        return begin, warmup

    def value(self, progress: float, max_iters: int | None = None) -> float:
        """Return the value at `progress` in [0, 1]."""
        begin, warmup = self.shares(max_iters)
        if progress < begin:
            return 0.0
        if progress < begin + warmup:
            return (progress - begin) / warmup
        left = 1 - progress
        if left >= self.decay:
            return 1.0
        t = 1 - left / self.decay
        return self.end_value + (1 - self.end_value) * (1 + math.cos(math.pi * t)) / 2
