"""Generated configs: each trains a step or ends with one ConfigError, and no number is absurd."""

import copy
import math

import distributed_worker
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from mmkd.apis.command_line import check_loaders, check_optimizers
from mmkd.export import self_contained
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError


def member(seed):
    """A narrow network, written out."""
    config = dict(
        type='ImageClassifier',
        _scope_='mmpretrain',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32, topk=(1,)),
        data_preprocessor=dict(distributed_worker.cls_preprocessor()),
    )
    return dict(config=config, seed=seed)


BASE = dict(
    default_scope='mmpretrain',
    model=dict(
        type='mmkd.OnlineDistiller',
        members=dict(teacher=member(0), student1=member(1), student2=member(2)),
        sharing=dict(type='kdml_p', tau=2.0, kd_weight=0.5, schedule=dict(type='Linear', end=0.5)),
        links=[dict(source='teacher', target='student1', tap='feature', weight=0.1, name='f')],
        ensemble=dict(members=['student1', 'student2'], fusion='logits'),
        data_preprocessor=dict(distributed_worker.cls_preprocessor()),
    ),
    optim_wrapper=dict(
        constructor='mmkd.MemberOptimWrapperConstructor',
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01),
        clip_grad=dict(max_norm=35.0, norm_type=2),
        paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.1))),
        accumulative_counts=1,
        max_skips=50,
    ),
    train_cfg=dict(type='mmkd.ResumableTrainLoop', max_epochs=3, val_interval=1),
    train_dataloader=dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='X'),
    ),
)
# Other types, and values out of range.
JUNK = [None, True, -1, 0, math.nan, math.inf, 1e30, 'x', '', [], {}, [1], dict(type='X')]
ABSURD = (-1, math.nan, math.inf, 1e30)
# Where such a number has a meaning: no clipping; a negative mean is one of other pixels.
ALLOWED = ('max_norm', 'norm_type', 'mean', 'topk', 'out_indices')


def places(node, path=()):
    """Yield the path of each value of a config."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def value_at(node, path):
    for key in path:
        node = node[key]
    return node


def prepare(cfg):
    """Check and build as train.py does; return the model and its optimizers."""
    check_loaders(cfg)
    check_optimizers(cfg)
    self_contained(cfg)
    with naming_keys(cfg):
        model = MODELS.build(cfg.model)
        model.init_weights()
        return model.train(), build_optim_wrapper(model, cfg.optim_wrapper)


def batch():
    whole = distributed_worker.classification_batch(2, seed=0)
    return dict(whole, inputs=[image[:, :16, :16] for image in whole['inputs']])


PLACES = [path for path in places(BASE) if len(path) > 1]


def test_the_config_itself_is_built():
    prepare(Config(copy.deepcopy(BASE)))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(path=st.sampled_from(PLACES), junk=st.sampled_from(JUNK))
def test_one_value_that_is_another(path, junk):
    content = copy.deepcopy(BASE)
    before = value_at(content, path)
    value_at(content, path[:-1])[path[-1]] = copy.deepcopy(junk)
    try:
        model, wrapper = prepare(Config(content))
    except ConfigError as error:
        assert str(error)
        event('refused')
        return
    event('built')
    number = isinstance(before, (int, float)) and not isinstance(before, bool)
    if number and not set(path) & set(ALLOWED):
        assert not any(junk is value for value in ABSURD), f'{path} = {junk!r} was accepted'
    log = model.train_step(batch(), wrapper)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in log.values())
