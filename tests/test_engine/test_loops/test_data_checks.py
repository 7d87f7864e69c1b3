"""What a loop looks at before its first iteration."""

import random
import types

import numpy as np
import pytest
import torch
from torch import nn

from mmkd.engine.loops.data_checks import check_data
from mmkd.utils.errors import ConfigError

ITEM = dict(inputs=torch.zeros(3, 8, 8), data_samples=object())


class Data(list):
    metainfo = dict(classes=('polyp',))


class Failing(Data):
    def __getitem__(self, index):
        raise ZeroDivisionError('no pixels')


class Drawing(Data):
    def __getitem__(self, index):
        torch.rand(1), np.random.rand(), random.random()
        return super().__getitem__(index)


def runner(classes=1, normalizes=False):
    network = nn.Conv2d(12, 4, 1)
    model = nn.Module()
    model.specs = dict(a=None)
    model.members = types.SimpleNamespace(networks=lambda: dict(a=network))
    model.network = lambda name: network
    model.task = types.SimpleNamespace(num_classes=lambda network: classes)
    model.data_preprocessor = types.SimpleNamespace(_enable_normalize=normalizes)
    return types.SimpleNamespace(model=model)


def test_what_fits_draws_nothing_from_the_training():
    fitting = runner()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    check_data(fitting, Drawing([ITEM]), 'train_dataloader', ['a', 'ensemble'])
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    check_data(runner(classes=None), Data([ITEM]), 'val_dataloader', ['a'])
    check_data(runner(classes=7), Data([dict(inputs=ITEM['inputs'])]), 'unlabeled_dataloader')
    check_data(runner(normalizes=True), Data([dict(ITEM, inputs=torch.zeros(1, 8, 8))]), 'x')
    check_data(types.SimpleNamespace(model=nn.Linear(1, 1)), Data([{}]), 'train_dataloader')
    check_data(runner(), Data(), 'train_dataloader')  # the loop tells that it is empty


@pytest.mark.parametrize(
    'data, key, message',
    [
        (Data([{}]), 'train_dataloader', 'have no inputs and no data_samples; the last step must'),
        (Data([dict(inputs=ITEM['inputs'])]), 'val_dataloader', 'its items have no data_samples'),
        (Data([(1, 2)]), 'val_dataloader', 'val_dataloader.dataset.pipeline: its items have no'),
        (
            Failing([1]),
            'test_dataloader',
            'first item cannot be made: ZeroDiv.*: no pixels',
        ),
        (
            Data([dict(ITEM, inputs=torch.zeros(1, 8, 8))]),
            'train_dataloader',
            "images of one channel, which 'a' cannot take",
        ),
    ],
)
def test_items_that_no_member_takes(data, key, message):
    with pytest.raises(ConfigError, match=message):
        check_data(runner(), data, key, ['a'])


def test_classes_of_heads_and_data():
    message = r'model.members.a: its head tells 80 classes apart, the data of {} have 1 \(polyp\)'
    with pytest.raises(ConfigError, match=message.format('train_dataloader') + '.*options$'):
        check_data(runner(classes=80), Data([ITEM]), 'train_dataloader', ['a'])
    with pytest.raises(ConfigError, match=message.format('val_dataloader') + '.*val_cfg.members$'):
        check_data(runner(classes=80), Data([ITEM]), 'val_dataloader', ['a'])
