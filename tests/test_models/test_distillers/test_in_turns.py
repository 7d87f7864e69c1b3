"""Members trained one after another: the same steps as in one backward pass, with fewer graphs."""

import copy
import itertools

import distributed_worker as worker
import pytest
import torch
from mmengine.registry import DefaultScope

COUNTER = itertools.count()
BN = dict(type='BN', requires_grad=True)
SHARE = dict(type='GradientShare', share=0.3, interval=1)
LAYER = dict(tap='backbone.layer4', loss='FeatureMSE')


def plain(*names, **kwargs):
    """Links by their two ends."""
    return [dict(source=a, target=b, **kwargs) for a, b in names]


TEACHING = plain(('teacher', 'student1'), ('student1', 'student2'), tap='prediction')
SEVERAL = [
    dict(source=['teacher', 'student1'], target='student2', combine='MeanProbability'),
    dict(source=['student1', 'student2'], target='student1', combine='MinLogit', name='kdcl'),
    dict(source='average', target='student1', **LAYER, weight=SHARE, guard='project'),
    dict(
        source='student2', target='teacher', **{**LAYER, 'loss': 'MaskedGenerative'}, guard='mute'
    ),
]
MIXED = dict(type='kdml_mixed_full', weight=SHARE)
DOT = dict(type='mmkd.DistillationOrientedSGD', lr=0.01)
# toolbox, keys of the model, options of the optimizers
CASES = {
    'detection': ('mmdet', dict(sharing=MIXED, max_share=0.4), {}),
    'segmentation': ('mmseg', dict(sharing=MIXED), dict(accumulative_counts=2)),
    'segmentation, mixed inside': (
        'mmseg',
        dict(sharing='kdml_p', mixer=dict(type='MetaMixer', depths=(0, 1), global_prob=1.0)),
        {},
    ),
    'segmentation, bf16': (
        'mmseg',
        dict(sharing='kdml_mixed_full'),
        dict(type='AmpOptimWrapper', dtype='bfloat16'),
    ),
    'segmentation, cps': (
        'mmseg',
        dict(sharing=dict(type='cps'), strong_view=dict(type='StrongView', cutmix=1.0)),
        {},
    ),
    'segmentation, averages and own views': (
        'mmseg',
        dict(
            sharing=dict(type='fixmatch', prediction=dict(type='PseudoLabel')),
            links=plain(('student1', 'student2'), tap='prediction', on='both'),
        ),
        {},
    ),
    'segmentation, guards and own views': (
        'mmseg',
        dict(
            sharing=dict(type='kdml_p', weight=SHARE, guard='mute', on='both'),
            strong_view=dict(type='StrongView', cutmix=1.0),
        ),
        {},
    ),
    'classification': (
        'mmpretrain',
        dict(sharing=None, links=SEVERAL),
        dict(clip_grad=dict(max_norm=1)),
    ),
    'classification, DOT': ('mmpretrain', dict(sharing='kdml_f'), dict(optimizer=DOT)),
}


@pytest.fixture(autouse=True)
def clean(fresh_state):
    pass


def make(toolkit, case, in_turns):
    toolbox, changes, _ = CASES[case]
    pytest.importorskip(toolbox)
    DefaultScope.get_instance(f'turns-{next(COUNTER)}', scope_name=toolbox)
    torch.manual_seed(0)
    cfg = worker.TASKS[toolbox][0]('kdml_p')
    for member in cfg['members'].values():
        for key in [key for key in member['options'] if key.endswith('norm_cfg')]:
            del member['options'][key]  # batch norms, as the toolboxes' configs have
        if toolbox == 'mmseg':
            member['options']['decode_head.dropout_ratio'] = 0.3
    if changes.get('links') is SEVERAL:
        cfg['members']['average'] = dict(training='ema', of='teacher', momentum=0.5)
    model = toolkit.make_distiller(**{**cfg, **copy.deepcopy(changes)}, in_turns=in_turns)
    for name in model.members.online:
        backbone = model.network(name).backbone
        if toolbox != 'mmseg':
            first = backbone.stem if toolbox == 'mmdet' else backbone.layer1
            first.add_module('noise', torch.nn.Dropout(0.2))
    return model.train()


def make_batch(case, seed):
    batch = worker.TASKS[CASES[case][0]][1](4, seed)
    if 'cps' in case or 'views' in case:
        batch['unlabeled'] = worker.TASKS[CASES[case][0]][1](3, seed + 50)
    return batch


def train(toolkit, case, in_turns, steps=2):
    model = make(toolkit, case, in_turns)
    wrapper = toolkit.optim_wrapper(model, **CASES[case][2])
    wrapper.initialize_count_status(model, 0, steps)
    logs = []
    for step in range(steps):
        model.progress = 0.5
        logs.append(model.train_step(make_batch(case, step), wrapper))
        model.update_ema_members()
    streams = {
        name: spec.stream.state_dict()['cpu'] for name, spec in model.specs.items() if spec.stream
    }
    return model.state_dict(), logs, streams


@pytest.mark.parametrize('case', CASES)
def test_the_same_steps_as_together(toolkit, case):
    """Weights, statistics, what links have measured, logs and random streams, after two batches."""
    together, logs, streams = train(toolkit, case, in_turns=False)
    alone, own_logs, own_streams = train(toolkit, case, in_turns=True)
    for log, own in zip(logs, own_logs):
        assert log.keys() == own.keys()
        for key in log:
            torch.testing.assert_close(own[key], log[key], msg=key)
    for key, value in together.items():
        torch.testing.assert_close(alone[key], value, msg=key)
    for name, state in streams.items():
        assert torch.equal(state, own_streams[name]), name


def test_each_member_runs_as_often_as_it_must(toolkit):
    """The largest once; others whom somebody reads twice, the first time as far as the tap."""
    model = toolkit.make_distiller(
        links=plain(
            ('teacher', 'student1'), ('student1', 'teacher'), tap='neck', loss='FeatureMSE'
        ),
        in_turns=True,
    )
    runs = []
    for name in model.members.online:
        for part in ('backbone', 'bbox_head'):
            module = model.network(name).get_submodule(part)
            module.register_forward_hook(
                lambda *args, place=(name, part): runs.append((*place, torch.is_grad_enabled()))
            )
    model.progress = 0.5
    model.train_step(toolkit.make_batch(), toolkit.optim_wrapper(model))
    assert runs == [
        ('student1', 'backbone', False),
        *[
            (name, part, True)
            for name in model.members.online
            for part in ('backbone', 'bbox_head')
        ],
    ]
    assert not any(p.grad is not None for p in model.parameters())  # the step was taken
