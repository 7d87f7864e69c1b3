"""Weights that set themselves, the guard, and what a link logs of its gradients."""

import collections
import copy
import math
import statistics

import distributed_worker
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope

from mmkd.models.distillers.projection import bend, separate
from mmkd.models.distillers.tap import Reading
from mmkd.models.losses import DetectionLoss, DistillationLoss
from mmkd.models.weights import GradientShare, NegativeTransferGuard
from mmkd.models.weights.base import Measurement, measure, products_of, tap_gradient
from mmkd.registry import MODELS
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def split_terms(terms, target='student1'):
    """The target's own loss, and its links' terms by name."""
    own, of_links = 0.0, {}
    for key, value in terms.items():
        if key.startswith(f'{target}/loss') and '[' in key:
            of_links[key] = value
        elif key.startswith(f'{target}/loss'):
            own = own + (value if isinstance(value, torch.Tensor) else sum(value))
    return own, of_links


def test_norms_and_cosine_of_gradients():
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    task, link = (
        tap_gradient((x * torch.tensor([1.0, 0.0])).sum(), [x]),
        tap_gradient((x * torch.tensor([1.0, 1.0])).sum(), [x]),
    )
    (found,) = measure([products_of(task, link)])
    assert found == pytest.approx((1.0, math.sqrt(2), 1 / math.sqrt(2)))
    broken = products_of([task[0] * float('nan')], link)
    assert measure([broken]) == [None]
    assert measure([products_of(task, link, images=(1, 1)), broken])[0].cosine is None
    assert measure([]) == []


def test_norms_of_two_batches_are_compared_per_image():
    """The gradient of a mean over N images has a norm that shrinks with the root of N."""
    few, many = (torch.ones(2, n, 5, requires_grad=True) for n in (4, 16))  # of two decoder layers
    task, link = (tap_gradient(x.mean(1).sum(), [x]) for x in (few, many))
    (found,) = measure([products_of(task, link, images=(4, 16))])
    assert found.task_norm == pytest.approx(found.link_norm)


def test_running_means_are_of_ratios_and_in_the_state():
    """Norms are averaged by their logarithms, the first measurements evenly; cosines plainly."""
    rule = GradientShare(share=0.5, momentum=0.9)
    assert rule.factor() == 0
    for norm, cosine in ((1.0, 0.2), (9.0, 0.6)):
        rule.update(Measurement(norm, 2.0, cosine))
    assert (rule.task_norm, rule.link_norm) == pytest.approx((3.0, 2.0))
    assert rule.cosine == pytest.approx(0.4) and rule.factor() == pytest.approx(0.75)
    twin = GradientShare(share=0.5)
    twin.load_state_dict(rule.state_dict())
    assert twin.factor() == rule.factor() and twin.measurements == 2  # to the last bit
    for _ in range(100):
        rule.update(Measurement(8.0, 2.0, 0.5))
    assert rule.task_norm == pytest.approx(8.0, rel=1e-3)


@pytest.mark.parametrize('size', [1e-3, 1e-9])
def test_gradients_in_float16_keep_their_size(size):
    """A mean over many pixels leaves float16's range, as does a loss scaler's factor."""
    x = torch.linspace(-1, 1, 64).half().requires_grad_()
    (found,) = tap_gradient((x.float().square() * size * 50).sum(), [x])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, 100 * size * x.detach().float(), rtol=2e-3, atol=0)
    (large,) = tap_gradient((x.float() * 300).sum(), [x])  # times 2^16 beyond float16
    torch.testing.assert_close(large, torch.full_like(large, 300.0))


@pytest.mark.parametrize('size', [1e-3, 1e-9])
def test_gradients_keep_their_size_where_float16_follows(size):
    """A LayerNorm gives float32 under autocast, on which layers in float16 follow."""
    x = torch.linspace(-1, 1, 64).requires_grad_()
    with torch.autocast('cpu', dtype=torch.float16):
        y = torch.nn.functional.linear(x, torch.eye(64))
        assert y.dtype == torch.float16
        (found,) = tap_gradient((y.float().square() * size * 50).sum(), [x])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, 100 * size * x.detach(), rtol=2e-3, atol=1e-5 * size)


def test_batches_without_gradient_do_not_open_a_guard():
    guard = NegativeTransferGuard(first=3)
    for _ in range(20):
        guard.update(Measurement(1.0, 0.0, 0.0))
    for count in range(1, 5):
        guard.update(Measurement(1.0, 1.0, 0.08))
        assert guard.cosine == pytest.approx(0.08) and guard.factor() == (count >= 3)


def test_a_batch_without_gradient_does_not_move_the_norms():
    rule = GradientShare(share=0.1)
    for task, link in ((1.0, 2.0), (1.0, 0.0), (0.0, 2.0)):
        rule.update(Measurement(task, link, 0.0))
    assert rule.factor() == pytest.approx(0.05) and rule.measurements == 3


def test_limits_and_links_without_gradient():
    rule = GradientShare(share=0.1, limits=(0.01, 10))
    rule.update(Measurement(1.0, 1e-9, 0.0))
    assert rule.factor() == 10
    rule = GradientShare()
    rule.update(Measurement(1.0, 0.0, 0.0))
    assert rule.factor() == 0


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(share=-0.1), 'share: expected a number >= 0'),
        (dict(share='much'), 'share: expected a number >= 0'),
        (dict(interval=0), 'interval: expected an integer >= 1'),
        (dict(momentum=2), r'momentum: expected a number in \[0, 1\]'),
        (dict(limits=(2, 1)), 'limits: expected the least and the greatest'),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(ConfigError, match=message):
        GradientShare(**options)


LOSSES = [
    dict(type='FeatureMSE'),
    dict(type='FeatureMSE', normalize='none'),
    dict(type='FeatureMSE', normalize='spatial'),
    dict(type='SpatialCorrelation'),
    dict(type='ChannelCorrelation'),
    dict(type='ChannelWise'),
    dict(type='ChannelWise', tau=10.0),
    dict(type='PearsonFeature'),
]


def test_the_share_is_held_for_eight_losses_of_different_scales(toolkit):
    """Measured independently: the norm of each term's gradient at the tapped tensor."""
    weight = dict(type='GradientShare', share=0.1, interval=1, momentum=0.0)
    scales = [1e-4, 1e-3, 1e-2, 1.0, 10.0, 100.0, 1e3, 1e4]

    @MODELS.register_module(force=True)
    class Scaled(DistillationLoss):
        def __init__(self, loss, scale):
            super().__init__()
            self.loss, self.scale = build_checked(MODELS, loss, 'loss'), scale

        def forward(self, target, source):
            return self.scale * self.loss(target, source)

    links = [
        dict(
            source='teacher',
            target='student1',
            tap='neck[1]',
            connector='ConvConnector',
            loss=dict(type='Scaled', loss=loss, scale=scale),
            weight=weight,
            name=f'l{i}',
        )
        for i, (loss, scale) in enumerate(zip(LOSSES, scales))
    ]
    model = toolkit.make_distiller(members=toolkit.members(students=1), links=links)
    batch, kept = toolkit.make_batch(), []
    hook = model.network('student1').neck.register_forward_hook(lambda m, a, out: kept.append(out))
    terms = losses_of(model, batch)
    hook.remove()
    level = kept[0][1]
    own, _ = split_terms(terms)
    (task,) = torch.autograd.grad(own, level, retain_graph=True)
    for i in range(len(links)):
        term = terms[f'student1/loss_l{i}[teacher:neck[1]]']
        (link,) = torch.autograd.grad(term, level, retain_graph=True)
        assert (link.norm() / task.norm()).item() == pytest.approx(0.1, rel=0.2)
        logged = terms[f'student1/share_l{i}[teacher:neck[1]]']
        assert logged.item() == pytest.approx(0.1, rel=0.2)


def test_the_share_follows_a_training(toolkit):
    """With the defaults, over 120 steps in which the task's gradient falls to a tenth."""
    pytest.importorskip('mmpretrain.models')
    torch.manual_seed(0)
    cfg = distributed_worker.classification('individual')
    del cfg['sharing'], cfg['members']['student2']
    links = [
        dict(
            source='teacher',
            target='student1',
            tap='backbone.layer4',
            connector='ConvConnector',
            loss=kind,
            weight=dict(type='GradientShare', share=0.1),
            name=f'l{i}',
        )
        for i, kind in enumerate(LOSSES)
    ]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = toolkit.make_distiller(**cfg, links=links, ensemble=dict(members=['student1']))
        optim_wrapper = toolkit.optim_wrapper(
            model, optimizer=dict(type='SGD', lr=0.02, momentum=0.9)
        )
    batches = [distributed_worker.classification_batch(16, seed=i) for i in range(20)]
    kept, norms, shares = [], [], collections.defaultdict(list)
    tapped = model.network('student1').backbone.layer4
    tapped.register_forward_hook(lambda module, inputs, output: kept.append(output))
    for iteration in range(120):
        MessageHub.get_current_instance().update_info('iter', iteration)
        kept.clear()
        terms = losses_of(model, batches[iteration % 20])
        if iteration % 5 == 3 and iteration > 20:  # never in an iteration that measures
            own, of_links = split_terms(terms)
            (task,) = torch.autograd.grad(own, kept[0], retain_graph=True)
            norms.append(task.norm().item())
            for key, term in of_links.items():
                (link,) = torch.autograd.grad(term, kept[0], retain_graph=True)
                shares[key].append((link.norm() / task.norm()).item())
        optim_wrapper.update_params(model.parse_losses(terms)[0])
    assert min(norms) < max(norms) / 10  # else there is nothing to follow
    assert len(shares) == len(links)
    for key, found in shares.items():
        print(f'{key}: {statistics.mean(found):.3f}, the last: {statistics.mean(found[-8:]):.3f}')
        # A measurement is 20 steps old at most, in which the gradient falls by two fifths.
        assert statistics.geometric_mean(found) == pytest.approx(0.1, rel=0.3), key
        assert statistics.geometric_mean(found[-8:]) == pytest.approx(0.1, rel=0.3), key


def test_the_shares_of_one_target_are_capped_together(toolkit):
    weight = dict(type='GradientShare', share=0.3, interval=1, momentum=0.0)
    sharing = dict(type='kdml_mixed_full', weight=weight)
    model = toolkit.make_distiller(sharing=sharing, max_share=0.3)
    terms = losses_of(model, toolkit.make_batch())
    shares = [v.item() for k, v in terms.items() if k.startswith('student1/share')]
    assert len(shares) == 3 and sum(shares) == pytest.approx(0.3, rel=1e-3)


def test_a_muted_link_takes_nothing_of_the_cap(toolkit):
    share = dict(type='GradientShare', share=0.3, interval=4)
    guard = dict(mode='mute', threshold=1, first=1, interval=4)
    links = [
        dict(source='teacher', target='student1', weight=share, name='heard'),
        dict(source='teacher', target='student1', weight=share, guard=guard, name='muted'),
    ]
    model = toolkit.make_distiller(links=links, max_share=0.3)
    heard, batch = [], toolkit.make_batch()
    for iteration in range(3):
        MessageHub.get_current_instance().update_info('iter', iteration)
        terms = losses_of(model, batch)
        assert terms['student1/loss_muted[teacher:prediction]'] == 0
        heard.append(terms['student1/loss_heard[teacher:prediction]'].item())
    assert heard[0] > 0 and heard == pytest.approx([heard[0]] * 3)


@pytest.mark.parametrize(
    'sharing',
    [
        dict(type='kdml_p', weight=dict(type='GradientShare', share=0.0)),
        dict(type='kdml_mixed_full', kd_weight=0, ml_weight=0),
    ],
)
def test_a_share_of_0_is_no_link(toolkit, sharing):
    batch, sums = toolkit.make_batch(), []
    for one in (sharing, 'individual'):
        torch.manual_seed(0)
        model = toolkit.make_distiller(sharing=one)
        assert model.links.active(0.5, 0) == []
        sums.append(model.parse_losses(losses_of(model, batch))[1])
    for key, value in sums[1].items():
        assert torch.equal(sums[0][key], value), key
    links = [v for k, v in sums[0].items() if '[' in k]
    assert links and not any(v.any() for v in links)


def test_what_is_logged_of_a_link_is_no_loss(toolkit):
    """Whatever the link and its source are called."""
    members = toolkit.members(students=1)
    members['low_loss'] = members.pop('teacher')
    weight = dict(type='GradientShare', share=0.1)
    link = dict(source='low_loss', target='student1', name='pixel_loss', weight=weight)
    model = toolkit.make_distiller(members=members, links=[link])
    terms = losses_of(model, toolkit.make_batch())
    own, of_links = split_terms(terms)
    assert 'student1/factor_pixel_loss[low_loss:prediction]' in terms and len(of_links) == 1
    log = model.parse_losses(terms)[1]
    torch.testing.assert_close(log['student1/loss'], own + sum(of_links.values()))


@pytest.mark.parametrize('value', [-1, 0, '0.3', True])
def test_a_cap_is_a_number_above_0(toolkit, value):
    weight = dict(type='GradientShare')
    with pytest.raises(ConfigError, match='max_share: expected a number >= 1e-06'):
        toolkit.make_distiller(sharing=dict(type='kd_p', weight=weight), max_share=value)


def test_a_cap_without_a_share_is_refused(toolkit):
    with pytest.raises(ConfigError, match='max_share: 0.3 caps links whose weight is a'):
        toolkit.make_distiller(sharing='kd_p', max_share=0.3)


def test_measurements_leave_gradients_as_they_are(toolkit):
    """The extra backward passes change no gradient: a weight fitted to 1 acts like the number 1."""
    batch, grads = toolkit.make_batch(), []
    for weight in (1.0, dict(type='GradientShare', share=1e6, limits=(0.5, 1.0))):
        model = toolkit.make_distiller(sharing=dict(type='kd_p', weight=weight))
        terms = losses_of(model, batch)
        model.parse_losses(terms)[0]['student1'].backward()
        grads.append([p.grad for p in model.network('student1').parameters()])
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other)


def test_measured_every_interval_only(toolkit):
    weight = dict(type='GradientShare', interval=3)
    model = toolkit.make_distiller(sharing=dict(type='kd_p', weight=weight))
    counts = []
    for iteration in range(7):
        MessageHub.get_current_instance().update_info('iter', iteration)
        losses_of(model, toolkit.make_batch())
        counts.append(next(iter(model.links)).rule.measurements)
    assert counts == [1, 1, 1, 2, 2, 2, 3]


# ---------------------------------------------------------------- the guard


@MODELS.register_module(force=True)
class MinusTask(DistillationLoss):
    """A linear function of the target whose gradient is what the test sets."""

    direction = None

    def forward(self, target, source):
        if self.direction is None or self.direction.shape != target.shape:
            return target.square().mean()
        return (target * self.direction).sum() + 1e3


def guarded(toolkit, guard):
    link = dict(
        source='teacher',
        target='student1',
        tap='neck[0]',
        connector=None,
        loss=dict(type='MinusTask'),
        guard=guard,
    )
    members = toolkit.members(students=1, teacher=toolkit.yolox(seed=10))
    return toolkit.make_distiller(members=members, links=[link])


def task_gradient(model, batch):
    kept = []
    hook = model.network('student1').neck.register_forward_hook(lambda m, a, out: kept.append(out))
    terms = losses_of(model, batch)
    hook.remove()
    own, _ = split_terms(terms)
    return torch.autograd.grad(own, kept[0][0])[0]


def test_a_link_against_the_task_is_muted_and_comes_back(toolkit):
    model = guarded(toolkit, dict(mode='mute', interval=1, momentum=0.0, first=1))
    (link,) = model.links
    batch = toolkit.make_batch()
    link.loss.direction = -task_gradient(model, batch)
    terms = losses_of(model, batch)
    assert terms['student1/cosine_kd[teacher:neck[0]]'] == pytest.approx(-1, abs=1e-3)
    assert terms['student1/loss_kd[teacher:neck[0]]'] == 0
    link.loss.direction = -link.loss.direction
    terms = losses_of(model, batch)
    assert terms['student1/loss_kd[teacher:neck[0]]'] != 0


def test_projection_removes_what_points_against_the_task(toolkit):
    model = guarded(toolkit, 'project')
    (link,) = model.links
    batch = toolkit.make_batch()
    task = task_gradient(model, batch)
    other = torch.randn_like(task)
    other -= (other * task).sum() / task.square().sum() * task  # orthogonal to the task's
    link.loss.direction = other - 2 * task
    kept = []
    hook = model.network('student1').neck.register_forward_hook(lambda m, a, out: kept.append(out))
    terms = losses_of(model, batch)
    hook.remove()
    found = torch.autograd.grad(terms['student1/loss_kd[teacher:neck[0]]'], kept[0][0])[0]
    torch.testing.assert_close(found, other, rtol=1e-3, atol=1e-5 * other.norm().item())


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('scale', [1.0, 65536.0])
def test_projection_in_half_precision(dtype, scale):
    """Of gradients whose squares float16 does not hold, also with a loss scaler's factor."""
    torch.manual_seed(0)
    task = 1e-4 * torch.randn(2, 4, 16, 16)
    against = (torch.randn_like(task) * 1e-4 - 2 * task).to(dtype)
    x = torch.zeros_like(against, requires_grad=True)
    tapped = x * 1
    value = separate(tapped)
    bend('link', value, Reading(tapped, (tapped,)), [task.to(dtype)])
    (value.float() * against.float() * scale).sum().backward()
    found = x.grad.double() / scale
    task, against = task.to(dtype).double(), against.double()
    expected = against - (against * task).sum() / task.square().sum() * task
    assert (against * task).sum() < 0 and found.isfinite().all()
    assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize('what', [dict(weight=dict(type='GradientShare')), dict(guard='mute')])
def test_what_cannot_be_measured_at_the_tap_is_refused(toolkit, what):
    @MODELS.register_module(force=True)
    class Elsewhere(MinusTask):
        through_tap = False

    link = dict(source='teacher', target='student1', tap='neck[0]', connector=None, **what)
    members = toolkit.members(students=1, teacher=toolkit.yolox(seed=10))
    with pytest.raises(ConfigError, match=r'links\[0\].*Elsewhere.* is not at the tap'):
        toolkit.make_distiller(members=members, links=[dict(link, loss=dict(type='Elsewhere'))])
    assert not DetectionLoss(queries='aligned').through_tap and DetectionLoss().through_tap


def test_projection_is_refused_for_structured_taps(toolkit):
    with pytest.raises(ConfigError, match="'project' is for taps of tensors"):
        toolkit.make_distiller(sharing=dict(type='kd_p', guard='project'))


def test_the_factor_is_logged_with_what_was_measured(toolkit):
    """Of a fitted weight, and of a number where a guard measures."""
    schedule = dict(type='Constant', value=0.5)
    for weight, guard in ((dict(type='GradientShare', share=0.2), None), (3.0, 'log')):
        sharing = dict(type='kd_p', weight=weight, guard=guard, schedule=schedule)
        cap = None if guard else 0.05
        model = toolkit.make_distiller(sharing=sharing, max_share=cap)
        terms = losses_of(model, toolkit.make_batch())
        factors = {k: v.item() for k, v in terms.items() if '/factor_' in k}
        assert len(factors) == len(model.links) == 2
        for link in model.links:
            capped = 1.0 if guard else 0.05 / (0.2 * 0.5)
            expected = link.factor(0.0) * capped
            assert factors[link.spec.log_key('factor')] == pytest.approx(expected)
            if guard is not None:
                assert expected == 1.5


def test_a_guard_logs_the_cosine_only(toolkit):
    guard = NegativeTransferGuard('log')
    guard.update(Measurement(1.0, 1.0, -1.0))
    assert guard.factor() == 1 and guard.cosine == -1
    with pytest.raises(ConfigError, match="mode: unknown name 'mut'; did you mean 'mute'"):
        NegativeTransferGuard('mut')


def test_a_guard_listens_before_it_lets_a_link_through():
    """It measures ten steps in a row; then the mean cosine must be above that of noise."""
    guard = NegativeTransferGuard(interval=4)
    for iteration in range(9):
        assert guard.due(iteration) and guard.factor() == 0
        guard.update(Measurement(1.0, 1.0, 0.06))
    guard.update(Measurement(1.0, 1.0, 0.06))
    assert guard.factor() == 1 and [guard.due(i) for i in (10, 11, 12)] == [False, False, True]
    for _ in range(5):
        guard.update(Measurement(1.0, 1.0, 0.0))
    assert 0 < guard.cosine < 0.05 and guard.factor() == 0


def test_links_rest_while_their_source_is_not_better(toolkit):
    model = toolkit.make_distiller(
        members=toolkit.members(students=1), sharing=dict(type='kd_p', only_if_better='mAP')
    )
    key = 'student1/loss_kd[teacher:prediction]'
    assert losses_of(model, toolkit.make_batch())[key] > 0
    model.links.after_validation({'teacher/mAP': 0.1, 'student1/mAP': 0.2})
    assert losses_of(model, toolkit.make_batch())[key] == 0
    twin = toolkit.make_distiller(
        members=toolkit.members(students=1), sharing=dict(type='kd_p', only_if_better='mAP')
    )
    twin.load_state_dict(model.state_dict())
    assert losses_of(twin, toolkit.make_batch())[key] == 0
    model.links.after_validation({'teacher/mAP': 0.3, 'student1/mAP': 0.2})
    assert losses_of(model, toolkit.make_batch())[key] > 0
    with pytest.raises(ConfigError, match="unknown name 'student1/mAP'"):
        model.links.after_validation({'teacher/mIoU': 0.3})


@pytest.mark.parametrize('sources', [['student2', 'student3'], ['student3', 'student2']])
def test_a_source_that_is_no_number_is_not_better_and_hides_no_other(toolkit, sources):
    link = dict(source=sources, target='student1', tap='prediction', combine='MeanProbability')
    model = toolkit.make_distiller(
        members=toolkit.members(students=3, teacher=False),
        links=[dict(link, only_if_better='mAP')],
    )
    (built,) = model.links
    nan, metrics = float('nan'), {'student1/mAP': 0.5, 'student2/mAP': float('nan')}
    for other, own, rests in (
        (0.9, 0.5, False),
        (0.1, 0.5, True),
        (0.1, nan, False),
        (nan, nan, True),
    ):
        model.links.after_validation({**metrics, 'student3/mAP': other, 'student1/mAP': own})
        assert built.source_is_worse is rests, (other, own)


def test_a_rule_of_ones_own(toolkit):
    from mmkd.models.weights import WeightRule

    @MODELS.register_module(force=True)
    class Half(WeightRule):
        def factor(self):
            return 0.5

    batch = toolkit.make_batch()
    key = 'student1/loss_kd[teacher:prediction]'
    values = [
        losses_of(toolkit.make_distiller(sharing=dict(type='kd_p', weight=weight)), batch)[key]
        for weight in (1.0, dict(type='Half'))
    ]
    torch.testing.assert_close(values[1], values[0] / 2)
    Half.factor = lambda self: -0.5
    model = toolkit.make_distiller(sharing=dict(type='kd_p', weight=dict(type='Half')))
    with pytest.raises(ConfigError, match='weight: expected a factor >= 0, Half gives -0.5'):
        losses_of(model, batch)
    with pytest.raises(ConfigError, match='expected a number or a WeightRule'):
        toolkit.make_distiller(
            links=[dict(source='teacher', target='student1', weight=dict(type='ResizeConnector'))]
        )
