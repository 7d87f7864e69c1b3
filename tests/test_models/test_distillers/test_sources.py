"""Links with several sources, what losses get beside the taps, and copies of a distiller."""

import copy

import pytest
import torch

from mmkd.models.combiners import Combiner
from mmkd.models.losses import DistillationLoss
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError

SEEN = {}


@MODELS.register_module(force=True)
class Everything(DistillationLoss):
    """Notes what it gets."""

    def forward(
        self,
        target,
        source,
        mask,
        progress,
        target_network,
        source_network,
        target_tap,
        source_tap,
        task,
    ):
        SEEN.update(locals())
        return target.square().mean()


@MODELS.register_module(force=True)
class Labels(DistillationLoss):
    """Needs the ground truth."""

    def forward(self, target, source, data_samples):
        SEEN['data_samples'] = data_samples
        return target.square().mean()


@MODELS.register_module(force=True)
class Asks(DistillationLoss):
    def forward(self, target, source, weather):
        return target.mean()


@MODELS.register_module(force=True)
class First(Combiner):
    """The first source's value, and how many there were."""

    def forward(self, sources, target, source_network):
        SEEN['combined'] = len(sources), len(source_network or [])  # none in the build's probe
        return sources[0]


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def link(**changes):
    cfg = dict(source='teacher', target='student1', tap='neck[0]', connector=None)
    cfg['loss'] = dict(type='FeatureMSE')
    return {**cfg, **changes}


def same(toolkit, **kwargs):
    """Members of one architecture, so that features can be compared as they are."""
    names = ('teacher', 'student1', 'student2', 'student3')
    members = {name: toolkit.yolox(seed=i) for i, name in enumerate(names)}
    return toolkit.make_distiller(members=members, **kwargs)


def test_a_loss_gets_what_its_forward_names(toolkit):
    model = same(toolkit, links=[link(loss=dict(type='Everything'))])
    model.progress = 0.25
    losses_of(model, toolkit.make_batch())
    assert SEEN['progress'] == 0.25 and SEEN['task'] is model.task
    assert SEEN['target_network'] is model.network('student1')
    assert SEEN['source_network'] is model.network('teacher')
    assert SEEN['target_tap'] == SEEN['source_tap'] == 'neck[0]' and SEEN['mask'] is None


def test_a_loss_gets_the_labels_of_the_batch(toolkit):
    model = same(toolkit, links=[link(loss=dict(type='Labels'))])
    batch = toolkit.make_batch()
    terms = losses_of(model, batch)
    assert terms['student1/loss_kd[teacher:neck[0]]'] > 0
    assert [len(s.gt_instances) for s in SEEN['data_samples']] == [1, 2]


def test_what_no_link_knows_is_refused(toolkit):
    with pytest.raises(ConfigError, match="asks for 'weather', but a link's context has mask, "):
        same(toolkit, links=[link(loss=dict(type='Asks'))])


def test_without_a_combiner_the_loss_gets_the_list(toolkit):
    cfg = link(source=['teacher', 'student2'], loss=dict(type='Everything'))
    model = same(toolkit, links=[cfg])
    terms = losses_of(model, toolkit.make_batch())
    assert 'student1/loss_kd[teacher+student2:neck[0]]' in terms
    assert len(SEEN['source']) == 2
    assert SEEN['source_network'] == [model.network('teacher'), model.network('student2')]
    assert not any(value.requires_grad for value in SEEN['source'])


def test_a_combiner_makes_one_value_of_several(toolkit):
    sources = ['teacher', 'student2', 'student3']
    several = same(toolkit, links=[link(source=sources, combine='First')])
    one = same(toolkit, links=[link()])
    batch = toolkit.make_batch()
    found = losses_of(several, batch)['student1/loss_kd[teacher+student2+student3:neck[0]]']
    torch.testing.assert_close(found, losses_of(one, batch)['student1/loss_kd[teacher:neck[0]]'])
    assert SEEN['combined'] == (3, 3)


def test_ensemble_stands_for_its_members_without_the_target(toolkit):
    cfg = dict(source='ensemble', target='student1', combine='MeanProbability')
    model = same(toolkit, links=[cfg])
    (made,) = model.links
    assert made.source == ['student2', 'student3']
    terms = losses_of(model, toolkit.make_batch())
    assert terms['student1/loss_kd[ensemble:prediction]'] > 0


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(source=[]), 'source: expected one or more different members'),
        (dict(source=['student2', 'student2']), 'source: expected one or more different members'),
        (dict(source=['student2', 'studnt3']), "source: unknown name 'studnt3'; did you mean"),
        (dict(source=['student2', 'student1']), "source and target are both 'student1'"),
        (dict(source=['student2', 3]), 'source: expected a name, got 3'),
        (dict(only_if_better=True), 'only_if_better: expected a name, got True'),
        (dict(source=['teacher', 'student2'], combine='Frist'), 'combine.type: unknown name'),
        (
            dict(source=['teacher', 'student2'], connector='ConvConnector'),
            'several sources need `combine` before connectors',
        ),
    ],
)
def test_wrong_sources_are_named(toolkit, changes, message):
    with pytest.raises(ConfigError, match=message):
        same(toolkit, links=[link(**changes)])


def test_copies_share_the_frozen_teacher_and_its_taps(toolkit, tmp_path):
    """As EMAHook copies a model: no second teacher, and the copy's step still reads its taps."""
    teacher = toolkit.make_distiller(members=dict(teacher=toolkit.yolox(seed=5)))
    torch.save(dict(state_dict=teacher.network('teacher').state_dict()), tmp_path / 't.pth')
    frozen = toolkit.yolox(training='frozen', checkpoint=str(tmp_path / 't.pth'))
    model = toolkit.make_distiller(
        members=dict(teacher=frozen, student1=toolkit.yolox(seed=1)), sharing='kd_p'
    )
    twin = copy.deepcopy(model)
    assert twin.network('teacher') is model.network('teacher')
    assert twin.task.networks['teacher'] is model.network('teacher')
    batch = toolkit.make_batch()
    torch.testing.assert_close(losses_of(twin, batch), losses_of(model, batch))


def test_only_the_taps_that_a_step_needs_are_run(toolkit, tmp_path):
    """A frozen teacher whose prediction link is over no longer runs its head."""
    teacher = toolkit.make_distiller(members=dict(teacher=toolkit.yolox(seed=5)))
    torch.save(dict(state_dict=teacher.network('teacher').state_dict()), tmp_path / 't.pth')
    frozen = toolkit.yolox(training='frozen', checkpoint=str(tmp_path / 't.pth'))
    links = [
        dict(source='teacher', target='student1', schedule=dict(type='Until', end=0.5)),
        link(name='f'),
    ]
    model = toolkit.make_distiller(
        members=dict(teacher=frozen, student1=toolkit.yolox(seed=1)), links=links
    )
    calls = []
    model.network('teacher').bbox_head.register_forward_hook(lambda *_: calls.append(1))
    for progress, expected in ((0.25, 1), (0.75, 1)):
        model.progress = progress
        losses_of(model, toolkit.make_batch())
        assert len(calls) == expected


def test_seeds_of_members_follow_the_run_and_differ(toolkit):
    seeds = []
    for run in (0, 1):
        torch.manual_seed(run)
        members = {name: toolkit.yolox() for name in 'abcd'}
        model = toolkit.make_distiller(init=False, members=members)
        seeds += [spec.seed for spec in model.specs.values()]
    assert len(set(seeds)) == 8
