import copy
import math
import pickle
import random

import pytest

from mmkd.registry import SCHEDULES
from mmkd.schedules import (
    Constant,
    Cosine,
    Linear,
    Schedule,
    SigmoidRamp,
    Step,
    Trapezoid,
    Until,
)
from mmkd.utils.checks import build_checked

CONFIGS = [
    dict(type='Constant'),
    dict(type='Constant', value=0),
    dict(type='Linear'),
    dict(type='Linear', start_value=2.0, end_value=0, begin=0.25, end=0.75),
    dict(type='Cosine', end=0.5),
    dict(type='Cosine', start_value=1, end_value=0.0),
    dict(type='SigmoidRamp', end=0.3),
    dict(type='SigmoidRamp', start_value=1, end_value=0, end=0.9),
    dict(type='Step', milestones=[0.2, 0.6], values=[1, 0, 0.5]),
    dict(type='Step', milestones=[0.5], values=[1, 0]),
    dict(type='Until', end=0.4),
    dict(type='Trapezoid'),
    dict(type='Trapezoid', begin=0.2, warmup=0.1, decay=0.4, end_value=0.1),
    dict(type='Until', end=0.8, schedule=dict(type='Linear', end=0.5)),
    dict(type='Until', end=0.8, schedule=dict(type='Step', milestones=[0.5], values=[1, 0])),
]
POINTS = [i / 40 for i in range(41)]


@pytest.mark.parametrize('progress', [0, 0.1, 0.25, 0.5, 0.77, 1])
@pytest.mark.parametrize(
    'schedule, formula',
    [
        (Constant(), lambda p: 1),
        (Constant(0.3), lambda p: 0.3),
        (Linear(), lambda p: p),
        (Linear(start_value=3, end_value=1), lambda p: 3 - 2 * p),
        (
            Linear(begin=0.1, end=0.5),
            lambda p: 0 if p <= 0.1 else 1 if p >= 0.5 else (p - 0.1) / 0.4,
        ),
        (Cosine(), lambda p: math.sin(math.pi * p / 2) ** 2),
        (
            Cosine(start_value=1, end_value=0, begin=0.25, end=0.75),
            lambda p: 1 if p <= 0.25 else 0 if p >= 0.75 else math.cos(math.pi * (p - 0.25)) ** 2,
        ),
        (SigmoidRamp(), lambda p: math.e ** (-5 * (1 - 2 * p + p * p))),
        (SigmoidRamp(end=0.3), lambda p: 1 if p >= 0.3 else math.exp(-5 * ((0.3 - p) / 0.3) ** 2)),
        (
            SigmoidRamp(start_value=2, end_value=6, end=0.5),
            lambda p: 6 if p >= 0.5 else 2 + 4 * math.exp(-5 * (1 - 2 * p) ** 2),
        ),
        (Step([0.25, 0.7], [1, 5, 2]), lambda p: 1 if p < 0.25 else 5 if p < 0.7 else 2),
        (Step([1], [3, 4]), lambda p: 4 if p == 1 else 3),
        (Step([], [2]), lambda p: 2),
        (Until(0.5), lambda p: 1 if p < 0.5 else 0),
        (Until(1), lambda p: 1 if p < 1 else 0),
        (
            Until(0.6, dict(type='Linear', start_value=1, end_value=2)),
            lambda p: 1 + p if p < 0.6 else 0,
        ),
        (Until(0.9, dict(type='Until', end=0.2)), lambda p: 1 if p < 0.2 else 0),
        (
            Trapezoid(warmup=0.1, decay=0.5),
            lambda p: min(10 * p, 1) if p <= 0.5 else math.cos(math.pi * (p - 0.5)) ** 2,
        ),
        (
            Trapezoid(begin=0.2, warmup=0.1, decay=0, end_value=0.5),
            lambda p: 0 if p < 0.2 else min(10 * (p - 0.2), 1),
        ),
        (
            Trapezoid(warmup=0, decay=0.25, end_value=0.2),
            lambda p: 1 if p <= 0.75 else 0.2 + 0.8 * math.cos(2 * math.pi * (p - 0.75)) ** 2,
        ),
    ],
)
def test_formula(schedule, formula, progress):
    value = schedule(progress)
    assert type(value) is float and value == pytest.approx(formula(progress), abs=1e-9)


def test_values_by_hand():
    assert SigmoidRamp()(0) == pytest.approx(0.006738, abs=1e-6) and SigmoidRamp()(
        0.5
    ) == pytest.approx(0.286505, abs=1e-6)
    assert Cosine()(1 / 3) == pytest.approx(0.25) and Cosine()(0.5) == pytest.approx(0.5)
    assert (
        Linear(end=0.1)(0.1) == 1 and Linear(start_value=1, end_value=0, end=0.3)(0.3) == 0
    )  # to the last bit


@pytest.mark.parametrize('cfg', CONFIGS)
def test_progress_outside_is_clamped(cfg):
    schedule = SCHEDULES.build(cfg)
    for low, high in ((-1e-9, 1 + 1e-9), (-3, 7), (-math.inf, math.inf)):
        assert schedule(low) == schedule(0) and schedule(high) == schedule(1)


@pytest.mark.parametrize('cfg', CONFIGS)
def test_the_same_progress_gives_the_same_value(cfg):
    """Whatever was asked before, also in copies and in other objects of the same config."""
    schedule = SCHEDULES.build(cfg)
    values = {p: schedule(p) for p in POINTS}
    others = [
        schedule,
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
        SCHEDULES.build(cfg),
    ]
    points = POINTS * 2
    random.shuffle(points)
    assert all(other(p) == values[p] for p in points for other in others)


@pytest.mark.parametrize('value', [-1e-3, math.nan, math.inf])
def test_a_schedule_of_ones_own_below_0_or_no_number_is_refused(value):
    class Wrong(Schedule):
        def value(self, progress):
            return value if progress > 0.5 else 1

    schedule = Wrong()
    assert schedule(0.5) == 1
    with pytest.raises(
        ValueError, match=r'Wrong at progress 0.75: expected a number (>= 0|in \[0, 1e\+06\]), got'
    ):
        schedule(0.75)


def test_a_schedule_of_ones_own():
    class Square(Schedule):
        def value(self, progress):
            return progress**2

    assert Square()(0.5) == 0.25 and Square()(3) == 1
    with pytest.raises(NotImplementedError):
        Schedule()(0.5)


@pytest.mark.parametrize('ramp', [Linear, Cosine, SigmoidRamp])
@pytest.mark.parametrize(
    'arguments',
    [
        dict(begin=0.5, end=0.5),
        dict(begin=0.6, end=0.5),
        dict(begin=-0.1),
        dict(end=1.1),
        dict(end=0),
        dict(begin=math.nan),
        dict(end=math.nan),
    ],
)
def test_wrong_ramps(ramp, arguments):
    with pytest.raises(ValueError, match='begin, end: expected 0 <= begin < end <= 1, got '):
        ramp(**arguments)


@pytest.mark.parametrize(
    'milestones, values',
    [
        ([0.5], [1]),
        ([0.5], [1, 2, 3]),
        ([0.5, 0.3], [1, 2, 3]),
        ([0.5, 0.5], [1, 2, 3]),
        ([0], [1, 2]),
        ([-0.1], [1, 2]),
        ([1.1], [1, 2]),
        ([math.nan], [1, 2]),
        ([], []),
    ],
)
def test_wrong_steps(milestones, values):
    with pytest.raises(ValueError, match='milestones, values: expected ascending milestones'):
        Step(milestones, values)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(type='Until', end=0),
            r'schedule: end: expected a share of progress in \(0, 1\], got 0',
        ),
        (dict(type='Until', end=1.5), 'schedule: end: expected'),
        (dict(type='Until', end=-1), 'schedule: end: expected'),
        (dict(type='Until'), "schedule: 'end' must be given"),
        (
            dict(type='Until', end=0.5, schedule=dict(type='Linaer')),
            "schedule.type: unknown name 'Linaer'; did you mean 'Linear'",
        ),
        (
            dict(type='Until', end=0.5, schedule=dict(end=1)),
            "schedule: expected a config with 'type'",
        ),
        (
            dict(type='Until', end=0.5, schedule=dict(type='Linear', begin=2)),
            'schedule: .*begin, end: expected',
        ),
        (dict(type='Cosinus'), "schedule.type: unknown name 'Cosinus'; did you mean 'Cosine'"),
        (dict(type='Linear', ends=0.5), "schedule.ends: unknown name 'ends'; did you mean 'end'"),
        (
            dict(type='Constant', valeu=1),
            "schedule.valeu: unknown name 'valeu'; did you mean 'value'",
        ),
        (dict(type='Step', milestones=[0.5]), "schedule: 'values' must be given"),
    ],
)
def test_wrong_configs(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_checked(SCHEDULES, cfg, 'schedule')


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(type='Constant', value=-1), 'value: expected a number >= 0, got -1'),
        (dict(type='Linear', end_value=math.nan), 'end_value: expected a number >= 0'),
        (dict(type='Step', milestones=[0.5], values=[1, -2]), 'values: expected a number'),
        (dict(type='Trapezoid', warmup=0.6, decay=0.6), 'with a sum of at most 1, got 0.0 . 0.6'),
        (dict(type='Trapezoid', warmup=True), 'warmup: expected a number >= 0, got True'),
    ],
)
def test_values_that_cannot_be_meant(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_checked(SCHEDULES, cfg, 'schedule')
