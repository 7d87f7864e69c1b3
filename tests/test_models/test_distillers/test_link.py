"""Chains of connectors, connectors on the source's side, losses and connectors of several terms."""

import copy

import pytest
import torch
from torch import nn

from mmkd.models.connectors import Connector, WithTerms
from mmkd.models.losses import DistillationLoss
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError


@MODELS.register_module(force=True)
class Widen(Connector):
    """A 1x1 convolution to `factor` times the channels; notes what it was built for."""

    def __init__(self, in_channels, out_channels, factor=2):
        super().__init__()
        self.built_for = in_channels, out_channels
        self.conv = nn.Conv2d(in_channels, factor * in_channels, 1)

    def forward(self, x, like):
        return self.conv(x)


@MODELS.register_module(force=True)
class Rebuild(Connector):
    """Gives its input on, and how far a learned scale of it is from it, as a term of its own."""

    def __init__(self, in_channels):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(in_channels, 1, 1))

    def forward(self, x, like):
        return WithTerms(x, dict(rebuild=(self.scale * x - x).square().mean()))


@MODELS.register_module(force=True)
class TwoTerms(DistillationLoss):
    """A loss of two terms and a weight of its own, however the sides' channels differ."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, target, source):
        return dict(
            near=self.factor * (target.mean() - source.mean()) ** 2, far=target.square().mean()
        )


@MODELS.register_module(force=True)
class Cut(DistillationLoss):
    """A constant for the target, from values of whatever kind; 0 below a threshold."""

    def __init__(self, offset=0.0, threshold=0.0):
        super().__init__()
        self.offset, self.threshold = offset, threshold

    def forward(self, target, source):
        target, source = (v if torch.is_tensor(v) else v.obj_logits for v in (target, source))
        distance = (target.detach().mean() - source.mean()).square() + self.offset
        return distance if distance > self.threshold else distance * 0


NEAR, FAR, REBUILD = (
    f'student1/loss_x_{key}[teacher:feature[1]]' for key in ('near', 'far', 'rebuild')
)


def link(**changes):
    return dict(
        dict(
            source='teacher',
            target='student1',
            tap='feature[1]',
            name='x',
            connector=None,
            loss=dict(type='TwoTerms'),
        ),
        **changes,
    )


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def test_each_part_of_a_chain_is_built_for_what_the_one_before_gives(toolkit):
    model = toolkit.make_distiller(
        links=[
            link(
                source_connector=[dict(type='Widen'), 'Rebuild'],
                connector=[dict(type='Widen', factor=3), dict(type='Widen')],
            )
        ]
    )
    (one,) = model.links
    ((widen, rebuild),) = one.source_connectors
    assert widen.built_for == (48, 32) and rebuild.scale.shape == (96, 1, 1)
    assert [part.built_for for part in one.connectors[0]] == [
        (32, 96),
        (96, 96),
    ]  # `out_channels`: what the source's chain gives
    assert one.terms == [NEAR, FAR, REBUILD]
    assert set(losses_of(model, toolkit.make_batch())) >= set(one.terms)


def test_a_chain_of_one_is_the_single_connector(toolkit):
    batch = toolkit.make_batch()
    single, chain = (
        toolkit.make_distiller(sharing=dict(type='kd_f', connector=cfg))
        for cfg in ('ConvConnector', ['ConvConnector'])
    )
    one, other = losses_of(single, batch), losses_of(chain, batch)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_everything_a_link_has_is_trained_with_the_target_and_nothing_flows_into_the_source(
    toolkit,
):
    model = toolkit.make_distiller(
        links=[link(source_connector=['Widen', 'Rebuild'], connector='Widen')]
    )
    (one,) = model.links
    optimized = {
        id(p)
        for group in toolkit.optim_wrapper(model)['student1'].optimizer.param_groups
        for p in group['params']
    }
    assert {id(p) for p in one.parameters()} <= optimized and len(list(one.parameters())) == 6
    terms = losses_of(model, toolkit.make_batch())
    sum(terms[key] for key in one.terms).backward()
    assert all(p.grad is not None and p.grad.any() for p in one.parameters())
    assert not any(
        p.grad is not None and p.grad.any() for p in model.network('teacher').parameters()
    )
    assert any(p.grad is not None and p.grad.any() for p in model.network('student1').parameters())


def test_weight_and_schedule_scale_the_loss_and_not_what_connectors_add(toolkit):
    batch, values = toolkit.make_batch(), {}
    for weight in (1, 10):
        model = toolkit.make_distiller(links=[link(source_connector='Rebuild', weight=weight)])
        values[weight] = losses_of(model, batch)
    torch.testing.assert_close(values[10][FAR], 10 * values[1][FAR])
    torch.testing.assert_close(values[10][NEAR], 10 * values[1][NEAR])
    assert torch.equal(values[10][REBUILD], values[1][REBUILD])
    sums, log = model.parse_losses(values[10])
    torch.testing.assert_close(
        log['student1/loss'], sum(v for k, v in log.items() if k.startswith('student1/loss_'))
    )


@MODELS.register_module(force=True)
class Below(DistillationLoss):
    """A loss that is `equal` where both sides agree, and less where they do not."""

    def __init__(self, equal=0.0):
        super().__init__()
        self.equal = equal

    def forward(self, target, source):
        return self.equal - (target - source).square().mean()


def test_a_loss_below_zero_is_an_error(toolkit):
    one = dict(source='student1', target='student2', tap='feature[1]', connector=None)
    with pytest.raises(ConfigError, match=r'links.0..loss: Below is below 0: .*student2/loss_kd'):
        toolkit.make_distiller(links=[dict(one, loss=dict(type='Below', equal=-1.0))], init=False)
    # The build sees an empty image, on which the sides agree.
    model, batch = toolkit.make_distiller(links=[dict(one, loss='Below')]), toolkit.make_batch()
    with pytest.raises(ConfigError, match=r'links.0..loss: Below is below 0 at iteration 1: '):
        losses_of(model, batch)
    (link,) = model.links
    link.loss.may_be_negative = True
    assert losses_of(model, batch)['student2/loss_kd[student1:feature[1]]'] < -1e-4


def test_a_loss_from_which_the_target_learns_nothing_is_refused(toolkit):
    """At the build, unless it is 0 on an empty image or of values that are no tensors."""
    message = r"model.links\[0\].loss: Cut has no gradient, so that 'student1' would learn nothing"
    with pytest.raises(ConfigError, match=message):
        toolkit.make_distiller(links=[link(loss=dict(type='Cut', offset=1.0))])
    batch = toolkit.make_batch()
    for tap in ('feature[1]', 'prediction'):
        model = toolkit.make_distiller(links=[link(tap=tap, loss=dict(type='Cut'))])
        with torch.no_grad():
            losses_of(model, batch)
        with pytest.raises(ConfigError, match=message):
            losses_of(model, batch)
    silent = link(loss=dict(type='Cut', threshold=1e6))
    losses_of(toolkit.make_distiller(links=[silent]), batch)


def test_levels_are_averaged_term_by_term(toolkit):
    batch = toolkit.make_batch()
    whole = toolkit.make_distiller(links=[link(tap='feature')])
    levels = toolkit.make_distiller(
        links=[link(tap=f'feature[{i}]', name=f'l{i}') for i in range(3)]
    )
    whole, levels = losses_of(whole, batch), losses_of(levels, batch)
    mean = sum(levels[f'student1/loss_l{i}_far[teacher:feature[{i}]]'] for i in range(3)) / 3
    torch.testing.assert_close(whole['student1/loss_x_far[teacher:feature]'], mean)


@pytest.mark.parametrize('broken', [False, True])
def test_terms_that_are_silent_keep_all_parameters_in_the_graph(toolkit, caplog, broken):
    """A link without weight, or with one term that is not finite, gives zeros for all its terms."""
    cfg = link(source_connector='Rebuild', schedule=None if broken else dict(type='Until', end=0.5))
    model = toolkit.make_distiller(links=[cfg])
    model.progress = 0.75
    (one,) = model.links
    if broken:
        forward = one.loss.forward
        one.loss.forward = lambda t, s: dict(forward(t, s), far=t.mean() * float('nan'))
    with caplog.at_level('WARNING'):
        terms = losses_of(model, toolkit.make_batch())
    assert [terms[key].item() for key in one.terms] == [0, 0, 0]
    sum(terms.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in one.parameters())


def test_two_links_between_the_same_taps_stand_side_by_side_under_two_names(toolkit):
    model = toolkit.make_distiller(links=[link(), link(name='y')])
    assert {
        'student1/loss_x_far[teacher:feature[1]]',
        'student1/loss_y_far[teacher:feature[1]]',
    } <= set(losses_of(model, toolkit.make_batch()))


@pytest.mark.parametrize(
    'change, message',
    [
        (
            dict(connector=['Widen', 'Widn']),
            r"model.links\[0\].connector\[1\].type: unknown name 'Widn'; did you mean 'Widen'",
        ),
        (
            dict(source_connector='Rebuld'),
            r"model.links\[0\].source_connector.type: unknown name 'Rebuld'; did you mean 'Reb",
        ),
        (
            dict(source_connector=[dict(type='Widen', factr=1)]),
            r"source_connector\[0\].factr: unknown name 'factr'",
        ),
        (
            dict(connector=[dict(type='Widen', in_channels=7)]),
            r'connector\[0\].in_channels: expected 32: student1.feature',
        ),
        (dict(connector=[7]), r"connector\[0\]: expected a config with 'type', got 7"),
        (
            dict(tap='prediction', connector='Widen'),
            r'connector: Widen needs maps \(N, C, H, W\), or vectors',
        ),
    ],
)
def test_wrong_connectors_are_named(toolkit, change, message):
    with pytest.raises(ValueError, match=message):
        toolkit.make_distiller(links=[link(**change)])
