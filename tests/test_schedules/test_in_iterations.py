"""Schedules that count in iterations: by hand, and what a training hands them."""

import json
import subprocess
import sys

import pytest
import torch
from light_training import environment, light_config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmkd.registry import SCHEDULES
from mmkd.schedules import Linear, Schedule, Trapezoid, Until
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

pytestmark = pytest.mark.usefixtures('unformatted_configs')
WARM = dict(type='Trapezoid', begin_iters=1, warmup_iters=4, decay=0.0)
# Its values in a training of six iterations.
SIX = [0, 0, 0.25, 0.5, 0.75, 1]
CUT_AFTER = 3


@HOOKS.register_module(force=True)
class FactorHook(Hook):
    """Notes the factor of a link in each iteration; ends the run where it is told to."""

    def __init__(self, cut=None):
        self.factors, self.cut = [], cut

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.cut:
            raise KeyboardInterrupt
        model = getattr(runner.model, 'module', runner.model)
        link = next(iter(model.links))
        self.factors.append(link.factor(model.training_progress()))


def light(work_dir, schedule, cut=None, **changes):
    cfg = light_config(work_dir, **changes)
    cfg.model.sharing.schedule = dict(schedule)
    cfg.model.sharing.weight = 1.0
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.save_best = None
    cfg.custom_hooks = [dict(type='mmkd.MemberHook'), dict(type='FactorHook', cut=cut)]
    return cfg


def by_iterations(work_dir, schedule, cut=None, max_iters=8, **changes):
    cfg = light(work_dir, schedule, cut, **{'train_cfg': dict(_delete_=True), **changes})
    cfg.train_cfg = dict(type='mmkd.ResumableIterTrainLoop', max_iters=max_iters)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=CUT_AFTER)
    return cfg


def factors(cfg):
    runner = Runner.from_cfg(cfg)
    hook = next(hook for hook in runner.hooks if isinstance(hook, FactorHook))
    try:
        runner.train()
    except KeyboardInterrupt:
        assert hook.cut is not None
    return hook.factors


# ---------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    'schedule, max_iters, expected',
    [
        (Trapezoid(warmup_iters=4, decay=0.2), 10, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.5, 0]),
        (
            Trapezoid(begin_iters=2, warmup_iters=2, decay=0.2, end_value=0.2),
            10,
            [0, 0, 0, 0.5, 1, 1, 1, 1, 1, 0.6, 0.2],
        ),
        (Trapezoid(begin=0.2, warmup_iters=2, decay=0), 5, [0, 0, 0.5, 1, 1, 1]),
        (Trapezoid(begin_iters=1, warmup=0.4, decay=0), 5, [0, 0, 0.5, 1, 1, 1]),
        (Trapezoid(warmup_iters=0, decay=0), 2, [1, 1, 1]),
        (Trapezoid(begin_iters=2, warmup_iters=0, decay=0), 4, [0, 0, 1, 1, 1]),
        (Trapezoid(begin_iters=2, warmup=0, decay=0.5), 4, [0, 0, 1, 0.5, 0]),
        (Until(0.5, dict(type='Trapezoid', warmup_iters=2, decay=0)), 8, [0, 0.5, 1, 1, *[0] * 5]),
    ],
)
def test_values_by_hand(schedule, max_iters, expected):
    found = [schedule(i / max_iters, max_iters) for i in range(max_iters + 1)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in found)


@pytest.mark.parametrize('max_iters', [203, 1000, 7919])
def test_the_warm_up_has_the_given_iterations_however_long_the_training_is(max_iters):
    schedule = Trapezoid(begin_iters=3, warmup_iters=200, decay=0)
    values = [schedule(i / max_iters, max_iters) for i in range(max_iters + 1)]
    assert values[:4] == [0] * 4  # exactly: at 0 a link is not run
    assert values[4:203] == pytest.approx([i / 200 for i in range(1, 200)], abs=1e-12)
    assert values[203:] == pytest.approx([1] * (max_iters - 202), abs=1e-12)


def test_where_no_training_has_a_length_the_iterations_count_as_over():
    schedule = Trapezoid(begin_iters=2, warmup_iters=4, decay=0.5)
    assert [schedule(p) for p in (0, 0.5, 0.75, 1)] == pytest.approx([1, 1, 0.5, 0])
    assert [schedule(p, None) for p in (0, 1)] == [1, 0]


def test_schedules_of_shares_take_the_length_and_leave_it():
    for schedule in (Linear(), Trapezoid(), Until(0.5)):
        assert [schedule(p, 7) for p in (0, 0.4, 1)] == [schedule(p) for p in (0, 0.4, 1)]


def test_a_schedule_of_ones_own_gets_what_its_value_names():
    class First(Schedule):
        def value(self, progress, max_iters=None):
            return float(max_iters is None or progress * max_iters < 5)

    class Heir(First):
        pass

    class Square(Schedule):
        def value(self, progress):
            return progress**2

    for cls in (First, Heir):
        assert cls()(0.4, 10) == 1 and cls()(0.5, 10) == 0 and cls()(0.9) == 1
    assert Square()(0.5, 10) == Square()(0.5) == 0.25


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(warmup=0.1, warmup_iters=200),
            'schedule: warmup, warmup_iters: expected one of them, got 0.1 and 200',
        ),
        (
            dict(warmup=0.0, warmup_iters=5),
            'schedule: warmup, warmup_iters: expected one of them, got 0.0 and 5',
        ),
        (
            dict(begin=0.1, begin_iters=20),
            'schedule: begin, begin_iters: expected one of them, got 0.1 and 20',
        ),
        (dict(warmup_iters=0.5), 'schedule: warmup_iters: expected an integer >= 0, got 0.5'),
        (dict(warmup_iters=-1), 'schedule: warmup_iters: expected an integer >= 0, got -1'),
        (dict(warmup_iters=True), 'schedule: warmup_iters: expected an integer >= 0, got True'),
        (dict(begin_iters='20'), "schedule: begin_iters: expected an integer >= 0, got '20'"),
        (dict(warmup=200), r'with a sum of at most 1, got .*\(in iterations: .*warmup_iters'),
        (dict(warmup_iters=5, begin=0.7, decay=0.4), 'sum of at most 1, got 0.7 . 0.0 . 0.4'),
        (dict(warmup_iter=5), "unknown name 'warmup_iter'; did you mean 'warmup_iters'"),
    ],
)
def test_wrong_values(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_checked(SCHEDULES, dict(type='Trapezoid', **arguments), 'schedule')


def test_a_training_that_is_too_short():
    schedule = Trapezoid(warmup_iters=9, decay=0.2)
    with pytest.raises(
        ConfigError,
        match='begin, warmup_iters, decay: expected to fit into a training of 10 iterations, got '
        r'shares of 0 \+ 0.9 \+ 0.2',
    ):
        schedule(0, 10)
    Trapezoid(begin_iters=100, warmup_iters=600, decay=0.3)(0, 1000)  # as a sum above 1 by rounding


def test_shares_may_fill_the_training():
    schedule = Trapezoid(begin=0.33, warmup=0.56, decay=0.11)  # a sum above 1 by rounding
    assert [schedule(progress) for progress in (0.33, 1)] == [0, 0]
    assert schedule(0.89) == pytest.approx(1)


# ---------------------------------------------------------------- in a training


def test_an_epoch_based_training_and_a_resumed_one(tmp_path):
    assert factors(light(tmp_path / 'whole', WARM)) == pytest.approx(SIX)
    first = factors(light(tmp_path / 'cut', WARM, cut=CUT_AFTER))
    rest = factors(light(tmp_path / 'cut', WARM, resume=True))
    assert first == pytest.approx(SIX[:CUT_AFTER]) and rest == pytest.approx(SIX[CUT_AFTER:])


def test_a_training_by_iterations_and_a_resumed_one(tmp_path):
    schedule = dict(WARM, decay=0.25)
    expected = [0, 0, 0.25, 0.5, 0.75, 1, 1, 0.5]
    assert factors(by_iterations(tmp_path / 'whole', schedule)) == pytest.approx(expected)
    first = factors(by_iterations(tmp_path / 'cut', schedule, cut=CUT_AFTER))
    rest = factors(by_iterations(tmp_path / 'cut', schedule, resume=True))
    assert first + rest == pytest.approx(expected) and len(first) == CUT_AFTER


def test_a_resumed_training_may_be_longer_the_warm_up_is_not(tmp_path):
    first = factors(by_iterations(tmp_path, WARM, cut=CUT_AFTER))
    rest = factors(by_iterations(tmp_path, WARM, max_iters=16, resume=True))
    expected = [0, 0, 0.25, 0.5, 0.75, *[1] * 11]
    assert first + rest == pytest.approx(expected)


def test_a_training_too_short_names_the_link(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r'model.sharing \(kdml_p\)\[0\].schedule: begin, warmup_iters, decay: expected to '
        'fit into a training of 6 iterations',
    ):
        factors(light(tmp_path, dict(type='Trapezoid', warmup_iters=200)))


def test_each_of_two_processes_has_the_same_factors(tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
    done = subprocess.run(
        [*command, __file__, str(tmp_path)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1)]
    assert found == [pytest.approx(SIX)] * 2


if __name__ == '__main__':
    from mmengine.dist import get_rank

    from mmkd.utils.distributed import init_cpu_distributed

    init_cpu_distributed('pytorch')
    cfg = light(f'{sys.argv[1]}/work', WARM)
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
    cfg.train_dataloader.batch_size = 2  # of twelve images: three iterations an epoch
    found = factors(cfg)
    with open(f'{sys.argv[1]}/{get_rank()}.json', 'w') as file:
        json.dump(found, file)
    torch.distributed.destroy_process_group()
