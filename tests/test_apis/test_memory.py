"""Peaks and bytes that tools/benchmark.py reports; those of tensors are the same in each run."""

import pytest
import torch
from mmengine.config import Config

from mmkd.apis.benchmark import Step
from mmkd.apis.memory import members_table, peak_of_step, with_members
from mmkd.apis.scaling import Reduced, scaling_table
from mmkd.utils.errors import ConfigError


@pytest.fixture
def config(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path / 'work')
    cfg.model.sharing = dict(type='kdml_p')
    return cfg


def test_the_peak_in_turns_does_not_grow_with_members(toolkit, config):
    """But for the gradients, which wait for the step."""
    batch, peaks = toolkit.make_batch(4), {}
    for count in (3, 5):
        for in_turns in (False, True):
            cfg = with_members(config, count)
            assert len(cfg.model.members) == count
            cfg.model.in_turns = in_turns
            step = Step(cfg, 'cpu')
            step(dict(batch, inputs=list(batch['inputs'])))
            peak = peak_of_step(step, batch, 'cpu')
            gradients = sum(p.numel() * 4 for p in step.model.parameters()) / 2**20
            peaks[count, in_turns] = peak - gradients
    assert peaks[5, False] > 1.2 * peaks[3, False]
    assert peaks[3, True] < 0.85 * peaks[3, False]
    assert peaks[5, True] < 1.15 * peaks[3, True]


def test_fewer_members_than_the_config_has(config):
    cfg = with_members(config, 1)
    assert list(cfg.model.members) == ['teacher'] and 'members' not in cfg.model.ensemble
    assert isinstance(cfg, Config) and len(config.model.members) == 3


def test_options_of_members_that_are_left_out_go_with_them(config):
    config.optim_wrapper.members = dict(
        teacher=dict(optimizer=dict(lr=1e-3)), student2=dict(optimizer=dict(lr=1e-4))
    )
    config.model.members.update(
        average1=dict(training='ema', of='student1'), average2=dict(training='ema', of='student2')
    )
    config.model.sharing = dict(type='kd_p')
    config.model.ensemble = dict(weights=[1, 2], calibration=[[1, 0], [2, 0]])
    cfg = with_members(config, 2)
    assert list(cfg.model.members) == ['teacher', 'student1', 'average1']
    assert list(cfg.optim_wrapper.members) == ['teacher']
    Step(cfg, 'cpu')
    config.model.links = [dict(source='average2', target='student1')]
    with pytest.raises(ConfigError, match='--members 2: a link of model.links needs more'):
        with_members(config, 2)
    config.model.links = None
    Step(with_members(config, 4), 'cpu')


def test_tables():
    mode = dict(step=2.0, process=3.0, seconds=4.0)
    rows = [
        {'members': 2, 'alone': {'a': 1.0}, 'together': mode, 'in turns': dict(mode, seconds=5)}
    ]
    assert members_table(rows, 'cpu', 3).splitlines()[1].split()[-1] == '1.25'
    row = dict(seconds=1.0, cpu=1.0, calls=3, bytes=2e6, least=1e6)
    text = scaling_table({1: row, 2: dict(row, seconds=2.0)}, 3)
    assert text.splitlines()[2].split()[:3] == ['2', '2.000', '0.50']


def test_all_reduces_are_counted():
    with Reduced() as reduced:
        reduced._all_reduce = lambda tensor, *args: tensor
        torch.distributed.all_reduce(torch.zeros(3))
        torch.distributed.all_reduce(torch.zeros(2, dtype=torch.float64))
    assert (reduced.calls, reduced.bytes) == (2, 28)
