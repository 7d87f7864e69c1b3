"""Combiners, and losses with networks of their own, as parts of links."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from mmkd.models.distillers.link import Link
from mmkd.models.distillers.link_spec import LinkSpec
from mmkd.tasks.detection.proposals import ProposalPrediction
from mmkd.tasks.detection.queries import QueryPrediction
from mmkd.tasks.detection.structures import DensePrediction
from mmkd.utils.errors import ConfigError

PREPROCESSOR = dict(type='ClsDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3)
TERM = 'student1/loss_kd[student2+student3:prediction]'


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def trained_by(toolkit, model, member):
    groups = toolkit.optim_wrapper(model)[member].optimizer.param_groups
    return {id(p) for group in groups for p in group['params']}


@pytest.mark.parametrize('loss', ['MaskedGenerative', 'FocalGlobal'])
def test_a_loss_gets_the_sources_channels_and_is_trained_with_the_target(toolkit, loss):
    model = toolkit.make_distiller(
        links=[dict(source='teacher', target='student1', tap='feature[1]', loss=dict(type=loss))]
    )
    value = losses_of(model, toolkit.make_batch())['student1/loss_kd[teacher:feature[1]]']
    value.backward()
    own = list(next(iter(model.links)).loss.parameters())
    assert value > 0 and own and all(p.grad is not None for p in own)
    assert {id(p) for p in own} <= trained_by(toolkit, model, 'student1')


def classifiers(toolkit, **link):
    """Three students of two widths; student1 learns from the two others."""
    DefaultScope.get_instance(f'combiners-{id(link)}', scope_name='mmpretrain')

    def member(width, seed):
        backbone = dict(type='ResNet_CIFAR', depth=18, base_channels=width, stem_channels=width)
        head = dict(type='LinearClsHead', num_classes=3, in_channels=8 * width, topk=(1,))
        model = dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(head, loss=dict(type='CrossEntropyLoss')),
            data_preprocessor=dict(PREPROCESSOR),
        )
        return dict(config=model, seed=seed)

    link = {'source': ['student2', 'student3'], 'target': 'student1', **link}
    return toolkit.make_distiller(
        members={f'student{i}': member(4 if i < 3 else 6, i) for i in (1, 2, 3)},
        data_preprocessor=dict(PREPROCESSOR, _scope_='mmpretrain'),
        links=[link],
    )


def batch(n=4):
    samples = [
        DataSample(metainfo=dict(img_shape=(32, 32), num_classes=3)).set_gt_label(i % 3)
        for i in range(n)
    ]
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=samples)


@pytest.mark.parametrize('combine', ['MeanProbability', 'MinLogit'])
def test_peers_teach_together(toolkit, combine):
    model = classifiers(toolkit, combine=combine)
    terms = losses_of(model, batch())
    terms[TERM].backward()
    assert terms[TERM] > 0 and not list(next(iter(model.links)).combiner.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.network('student1').parameters())
    for name in ('student2', 'student3'):
        assert all(p.grad is None for p in model.network(name).parameters())


def test_a_target_is_one_of_several_sources(toolkit):
    """KDCL's target is of all students: the mean of both logits, whose own part is detached."""
    both = dict(source=['student1', 'student2'], combine='MeanLogits', loss='KLDivergence')
    model = classifiers(toolkit, **both)
    data = model.data_preprocessor(batch(), True)
    taps = model.links.read_taps(data['inputs'], data['data_samples'])
    model.eval()  # batch norms as in `read_taps`
    own, peer = (taps[f'student{i}', 'prediction'].double() for i in (1, 2))
    terms = model(**data, mode='loss')
    tau = next(iter(model.links)).loss.tau
    q, p = ((own + peer) / 2 / tau).softmax(1), (own / tau).softmax(1)
    expected = (q * (q / p).log()).sum(1).mean() * tau**2
    found = terms['student1/loss_kd[student1+student2:prediction]']
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)
    found.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.network('student1').parameters())
    assert all(p.grad is None for p in model.network('student2').parameters())


@pytest.mark.parametrize('changes', [dict(), dict(combine='MeanLogits', detach=False)])
def test_a_target_among_sources_needs_a_combiner_and_a_cut(toolkit, changes):
    with pytest.raises(ConfigError, match='with `combine`'):
        classifiers(toolkit, **{'source': ['student1', 'student2'], 'combine': None, **changes})


def test_a_combiner_that_could_not_learn_is_refused(toolkit):
    with pytest.raises(ConfigError, match='combine: Attention would learn nothing: PseudoLabel'):
        classifiers(toolkit, combine='Attention', loss='PseudoLabel')
    classifiers(toolkit, combine='Gate', loss='PseudoLabel')  # by a term of its own


def test_a_loss_for_detectors_is_refused_at_the_build(toolkit):
    link = dict(tap='backbone.layer4', loss='FocalGlobal', combine=None)
    with pytest.raises(ConfigError, match='FocalGlobal is for detectors, not for a Classif'):
        classifiers(toolkit, source='student2', **link)


SECOND = SimpleNamespace(roi_head=SimpleNamespace(bbox_head=SimpleNamespace(num_classes=2)))
PROPOSALS = ProposalPrediction((torch.zeros(1, 4, 2, 2),), SECOND)
DENSE = DensePrediction(torch.zeros(1, 3, 2), None, torch.zeros(1, 3, 4))
QUERIES = QueryPrediction(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4))


@pytest.mark.parametrize(
    'combine, value',
    [
        *[(name, DENSE) for name in ('MinLogit', 'LowestLoss', 'Attention', 'Gate')],
        *[(name, PROPOSALS) for name in ('MeanProbability', 'MeanLogits', 'Gate')],
        *[(name, QUERIES) for name in ('MeanProbability', 'MeanLogits', 'MinLogit')],
    ],
)
def test_predictions_that_a_combiner_does_not_take_are_refused_by_name(combine, value):
    spec = LinkSpec(['b', 'c'], 'a', combine=combine, loss='DetectionLoss', key='links[0]')
    name = type(value).__name__
    with pytest.raises(ConfigError, match=rf'^links.0..combine: {combine} takes tensors') as error:
        Link(spec, None, value, [value, value], seed=0)
    assert f'got {name}, {name} for' in str(error.value)
    assert 'one without `combine`' in str(error.value)


@pytest.mark.parametrize('combine', ['Attention', 'Gate'])
def test_what_a_combiner_learns_is_trained_with_the_target(toolkit, combine):
    model = classifiers(toolkit, combine=combine, weight=0.5)
    terms = losses_of(model, batch())
    gate = [value for key, value in terms.items() if 'gate' in key]
    assert len(gate) == (combine == 'Gate')
    sum([terms[TERM], *gate]).backward()
    own = list(next(iter(model.links)).combiner.parameters())
    assert own and all(p.grad is not None for p in own)
    assert {id(p) for p in own} <= trained_by(toolkit, model, 'student1')
    if gate:
        assert set(next(iter(model.links)).terms) <= set(terms)
        values = terms['student1/loss_kd_gate[student2+student3:prediction]']
        torch.testing.assert_close(values, gate[0])


def test_a_loss_that_needs_labels(toolkit):
    model = classifiers(toolkit, combine='MeanProbability', loss=dict(type='DKD'))
    assert losses_of(model, batch())[TERM] > 0


def test_a_loss_config_without_a_type_is_one_clear_message(toolkit):
    for key in ('loss', 'combine'):
        with pytest.raises(ValueError, match=rf"{key}: expected a config with 'type', got"):
            classifiers(toolkit, **{'combine': 'MeanLogits', key: dict(tau=2.0)})
