"""The hook that writes a study's results."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmkd.engine.hooks import StudyResultHook
from mmkd.engine.hooks.study_result_hook import count_parameters


class Loop:
    """A validation loop that tells the hook its metrics."""

    def __init__(self, hook, runner, metrics):
        self.hook, self.runner, self.metrics, self.runs = hook, runner, metrics, 0

    def run(self):
        self.runs += 1
        self.hook.after_val_epoch(self.runner, self.metrics)


@pytest.fixture
def runner(tmp_path):
    model = nn.Module()
    model.members = nn.ModuleDict(dict(student1=nn.Linear(3, 2), student2=nn.Linear(1, 1)))
    model.link_modules = nn.ModuleDict(dict(a=nn.Linear(2, 2, bias=False)))
    return SimpleNamespace(
        work_dir=str(tmp_path), model=model, iter=10, val_loop=None, _resume=True
    )


def written(runner):
    with open(f'{runner.work_dir}/result.json') as file:
        return json.load(file)


def test_the_last_validation_is_written(runner):
    hook = StudyResultHook(['student1/mDice'])
    hook.before_train(runner)
    hook.after_val_epoch(runner, {'student1/mDice': 90.0})
    hook.after_val_epoch(
        runner,
        {
            'student1/mDice': torch.tensor(80.0),
            'student1/loss': float('nan'),
            'student1/classes': ['a'],
        },
    )
    hook.after_train(runner)
    result = written(runner)
    assert result['metrics'] == {'student1/mDice': 80.0, 'student1/loss': None}
    assert result['iterations'] == 10 and 0 <= result['minutes'] < 1
    assert result['parameters'] == dict(student1=8, student2=2, links=4)


def test_minutes_of_the_stage_before_are_counted_once(runner, tmp_path):
    (tmp_path / 'pretrain').mkdir()
    (tmp_path / 'pretrain' / 'result.json').write_text('{"minutes": 5.0}')
    hook, saved = StudyResultHook([]), {}
    hook.before_train(runner)
    hook.before_save_checkpoint(runner, saved)
    assert 5 <= saved['mmkd_study']['minutes'] < 6
    resumed = StudyResultHook([])
    resumed.after_load_checkpoint(runner, saved)
    resumed.before_train(runner)
    resumed.after_train(runner)
    assert 5 <= written(runner)['minutes'] < 6


def test_a_metric_that_is_missing_ends_the_run_at_the_first_validation(runner):
    hook = StudyResultHook(['student1/mDice'])
    with pytest.raises(ValueError, match="name 'student1/mDice'; did you mean 'student1/mdice'"):
        hook.after_val_epoch(runner, {'student1/mdice': 80.0})


def test_an_end_that_was_not_validated_is_validated(runner):
    hook = StudyResultHook(['mDice'])
    runner.val_loop = Loop(hook, runner, {'mDice': 2.0})
    runner.iter = 5
    hook.before_train(runner)
    runner.val_loop.run()
    runner.iter = 7
    hook.after_train(runner)
    assert runner.val_loop.runs == 2 and written(runner)['iterations'] == 7
    hook.after_train(runner)
    assert runner.val_loop.runs == 2


def test_minutes_and_metrics_go_on_from_a_checkpoint(runner):
    hook = StudyResultHook(['mDice'])
    hook.before_train(runner)
    hook.after_val_epoch(runner, {'mDice': 3.0})
    checkpoint: dict = {}
    hook.before_save_checkpoint(runner, checkpoint)
    checkpoint['mmkd_study']['minutes'] += 5
    resumed = StudyResultHook(['mDice'])
    resumed.after_load_checkpoint(runner, checkpoint)
    resumed.before_train(runner)
    resumed.after_train(runner)
    assert written(runner)['metrics'] == {'mDice': 3.0} and 5 <= written(runner)['minutes'] < 6
    runner._resume = False  # weights to start from are no part of the run
    started = StudyResultHook(['mDice'])
    started.after_load_checkpoint(runner, checkpoint)
    assert started.minutes_before == 0 and started.metrics == {}


def test_the_parameters_of_a_plain_model(runner):
    assert count_parameters(nn.Linear(3, 2)) == dict(model=8)
