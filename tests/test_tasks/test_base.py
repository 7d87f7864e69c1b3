"""The contracts of tasks, with a task as a project would add it."""

import copy

import pytest
import torch
from torch import nn

from mmkd.models.ensembles import Ensemble
from mmkd.models.mixers import MetaMixer
from mmkd.registry import TASKS
from mmkd.tasks import Task, task_of
from mmkd.tasks.base import last_level
from mmkd.utils.errors import ConfigError


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)

    def forward(self, inputs):
        return self.head(self.backbone(inputs).mean((2, 3)))


class MeanValue(Ensemble):
    def fuse_samples(self, samples):
        return torch.stack(list(samples)).mean(0)


class RegressionTask(Task):
    standard_taps = ('prediction', 'feature')

    @classmethod
    def fits(cls, network):
        return isinstance(network, Regressor)

    def resolve_tap(self, name, network, key):
        return ('backbone', last_level) if name == 'feature' else ('head', None)

    def run_for_taps(self, network, inputs, data_samples, paths):
        network(inputs)

    def build_ensemble(self, members, **cfg):
        return MeanValue(**cfg)


@pytest.fixture
def registered():
    TASKS.register_module('regression', module=RegressionTask)
    yield
    TASKS.module_dict.pop('regression')


def test_a_projects_task_is_found_by_its_networks_or_by_name(registered):
    networks = dict(a=Regressor(), b=Regressor())
    task = task_of(networks)
    assert type(task) is RegressionTask and type(task_of(networks, 'regression')) is RegressionTask
    assert task.name_of(networks['b']) == 'b' and task.name_of(Regressor()) == 'a member'
    assert task.build_ensemble(['a']).fuse_samples([torch.ones(1), torch.zeros(1)]) == 0.5
    with pytest.raises(ConfigError, match="model.task: unknown name 'regresion'; did you mean"):
        task_of(networks, 'regresion')
    with pytest.raises(ConfigError, match=r"networks of one task \(.*regression.*, got {'a': 'Reg"):
        task_of(dict(networks, c=nn.Linear(1, 1)))


def test_defaults_of_a_task():
    """One level of the features has the features' loss; nothing is masked, mixed or drawn."""
    task = RegressionTask(dict(a=Regressor()))
    expected = dict(type='PearsonFeature')
    assert task.default_loss('feature') == task.default_loss('feature[0]') == expected
    assert task.default_loss('prediction') is None and task.default_loss('backbone') is None
    assert task.valid_mask(None) is None and task.mixing is None and task.drawing is None
    with pytest.raises(ConfigError, match='mixers do not know the task RegressionTask'):
        MetaMixer(task, task.networks, nn.Identity())
    with pytest.raises(ConfigError, match="x: members differ in classes: {'a': 1, 'b': 2}"):
        task.check_equal(dict(a=1, b=2), 'classes', 'x')


def test_a_task_without_its_core_cannot_be_made():
    class Half(Task):
        @classmethod
        def fits(cls, network):
            return True

    with pytest.raises(TypeError, match='abstract'):
        Half({})


def test_a_task_is_shared_by_copies():
    """It has no state; copying its networks would double the frozen ones."""
    task = RegressionTask(dict(a=Regressor()))
    holder = nn.Module()
    holder.task = task
    assert copy.deepcopy(holder).task is task
