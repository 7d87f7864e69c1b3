import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special

from mmkd.models.losses import KLDivergence
from mmkd.registry import MODELS

MODES = ['softmax', 'sigmoid']
SHAPES = [
    ((5, 4), 1),
    ((2, 3, 2, 3), 1),
    ((2, 6, 3), -1),
    ((2, 6, 3), 2),
    ((3, 1), 1),
    ((2, 1, 2, 2), 1),
]


def reference(target, source, tau=1.0, mode='softmax', dim=1):
    """The loss in float64, by relative entropies of probabilities, one position after the other."""
    target, source = (
        np.moveaxis(np.asarray(x, dtype=np.float64), dim, -1) / tau for x in (target, source)
    )
    classes, total, positions = target.shape[-1], 0.0, 0
    for t, s in zip(target.reshape(-1, classes), source.reshape(-1, classes)):
        if mode == 'softmax':
            total += special.rel_entr(special.softmax(s), special.softmax(t)).sum()
        else:
            for sign in (1, -1):
                total += special.rel_entr(special.expit(sign * s), special.expit(sign * t)).sum()
        positions += 1
    return tau**2 * total / positions


def numerical_gradient(function, x, step=1e-5):
    """Central differences in float64."""
    x, gradient = np.array(x, dtype=np.float64), np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        values = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            values.append(function(moved))
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient


def logits(shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale, torch.randn(
        shape, generator=generator
    ) * scale


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('shape, dim', SHAPES)
def test_value_and_gradient_are_the_references(mode, tau, shape, dim):
    if mode == 'softmax' and shape[dim] == 1:
        shape = (*shape[:dim], 2, *shape[dim + 1 :])
    target, source = logits(shape)
    target.requires_grad_()
    value = MODELS.build(dict(type='mmkd.KLDivergence', tau=tau, mode=mode, dim=dim))(
        target, source
    )
    value.backward()
    assert value.shape == () and value.dtype == torch.float32
    t, s = target.detach().numpy(), source.numpy()
    np.testing.assert_allclose(value.item(), reference(t, s, tau, mode, dim), rtol=1e-5, atol=1e-7)
    expected = numerical_gradient(lambda x: reference(x, s, tau, mode, dim), t)
    np.testing.assert_allclose(target.grad.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_the_softmax_of_a_source_is_computed_once_for_all_links():
    target, source = logits((4, 3))
    loss, other = KLDivergence(tau=2.0), KLDivergence(tau=1.0)
    with torch.profiler.profile() as profile:
        values = [loss(target, source), loss(target + 1, source), other(target, source)]
        source.mul_(2)  # another source from now on
        values.append(loss(target, source))
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts['aten::_log_softmax'] == 4 + 3  # of each target, of the sources
    torch.testing.assert_close(values[0], values[1])
    assert len({value.item() for value in (values[0], values[2], values[3])}) == 3


def test_values_by_hand():
    """Source (3/4, 1/4), target (1/2, 1/2): the divergence is from the source's side."""
    source, target = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    assert KLDivergence()(target, source).item() == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-5
    )
    assert KLDivergence()(source, target).item() == pytest.approx(
        0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-5
    )
    # sigmoid: the second label is 1/2 on both sides
    value = KLDivergence(mode='sigmoid')(target, source).item()
    assert value == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-5)


@pytest.mark.parametrize('mode', MODES)
def test_zero_for_equal_sides(mode):
    target, _ = logits((2, 4, 3, 3), scale=10)
    target.requires_grad_()
    value = KLDivergence(tau=2.0, mode=mode)(target, target.detach().clone())
    value.backward()
    assert value.item() == 0 and target.grad.abs().max() < 1e-6


@pytest.mark.parametrize('mode', MODES)
def test_batch_size_and_resolution_leave_the_value(mode):
    target, source = logits((2, 3, 4, 5))
    loss = KLDivergence(tau=2.0, mode=mode)
    value = loss(target, source)
    assert value > 0.1
    torch.testing.assert_close(loss(target.repeat(3, 1, 1, 1), source.repeat(3, 1, 1, 1)), value)
    torch.testing.assert_close(
        loss(F.interpolate(target, scale_factor=2), F.interpolate(source, scale_factor=2)), value
    )


def test_softmax_ignores_a_shift_of_the_logits_sigmoid_does_not():
    target, source = logits((4, 5))
    torch.testing.assert_close(
        KLDivergence()(target + 7, source - 3), KLDivergence()(target, source)
    )
    assert (
        KLDivergence(mode='sigmoid')(target + 7, source)
        - KLDivergence(mode='sigmoid')(target, source)
    ).abs() > 0.1


@pytest.mark.parametrize('mode', MODES)
def test_a_mask_chooses_the_positions(mode):
    target, source = logits((2, 3, 4, 4))
    mask = (
        torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]])
        .float()
        .repeat(2, 1, 1, 1)
    )
    mask[1, 0, 2] = 1
    loss = KLDivergence(tau=2.0, mode=mode)
    whole = target.clone().requires_grad_()
    value = loss(whole, source, mask)
    value.backward()
    chosen = mask[:, 0].bool()
    target, source = (
        x.movedim(1, -1)[chosen] for x in (target, source)
    )  # (number of positions, classes)
    assert value.item() == pytest.approx(
        reference(target.numpy(), source.numpy(), 2.0, mode), rel=1e-5
    )
    assert torch.equal(whole.grad.any(1), chosen)


@pytest.mark.parametrize('mode', MODES)
def test_a_mask_at_the_labels_resolution_weights_by_shares(mode):
    """Of the four pixels below a position, 4, 2, 1 and none are valid."""
    target, source = logits((1, 3, 2, 2))
    mask = (
        torch.tensor([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
        .float()
        .view(1, 1, 4, 4)
    )
    at = [
        reference(target[..., y, x].numpy(), source[..., y, x].numpy(), mode=mode)
        for y, x in ((0, 0), (0, 1), (1, 0))
    ]
    value = KLDivergence(mode=mode)(target, source, mask).item()
    assert value == pytest.approx((4 * at[0] + 2 * at[1] + 1 * at[2]) / 7, rel=1e-5)


@pytest.mark.parametrize('mode', MODES)
def test_nothing_valid_is_zero(mode):
    target, source = logits((2, 3, 2, 2))
    target.requires_grad_()
    value = KLDivergence(mode=mode)(target, source, torch.zeros(2, 1, 8, 8))
    value.backward()
    assert value.item() == 0 and not target.grad.any()


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_compared_in_float32(mode, dtype):
    target, source = logits((2, 4, 3, 3))
    loss = KLDivergence(tau=2.0, mode=mode)
    full = loss(target, source)
    target, source = target.to(dtype).requires_grad_(), source.to(dtype)
    value = loss(target, source)
    value.backward()
    assert value.dtype == torch.float32 and torch.equal(value, loss(target.float(), source.float()))
    assert value.item() == pytest.approx(full.item(), rel=0.05)
    assert target.grad.dtype == dtype and target.grad.isfinite().all() and target.grad.any()


@pytest.mark.parametrize('mode', MODES)
def test_autocast_leaves_the_loss_in_float32(mode):
    target, source = logits((4, 8))
    weight = torch.eye(8, requires_grad=True)
    loss = KLDivergence(tau=2.0, mode=mode)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(loss(target, source), loss(target.clone(), source.clone()))
        value = loss(target @ weight, source @ weight.detach())
        assert (target @ weight).dtype == torch.bfloat16
    value.backward()
    assert value.dtype == torch.float32 and value.item() == pytest.approx(
        loss(target, source).item(), rel=0.05
    )
    assert weight.grad.isfinite().all() and weight.grad.any()


HIGH, LOW, ZERO = (1e4, -1e4), (-1e4, 1e4), (0.0, 0.0)


@pytest.mark.parametrize('tau', [1.0, 2.0])
@pytest.mark.parametrize(
    'mode, target, source, expected',
    [
        ('softmax', LOW, HIGH, lambda tau: 2e4 / tau),
        ('softmax', HIGH, HIGH, lambda tau: 0),
        ('softmax', ZERO, HIGH, lambda tau: math.log(2)),
        ('softmax', HIGH, ZERO, lambda tau: 1e4 / tau - math.log(2)),
        ('sigmoid', LOW, HIGH, lambda tau: 2e4 / tau),
        ('sigmoid', HIGH, HIGH, lambda tau: 0),
        ('sigmoid', ZERO, HIGH, lambda tau: 2 * math.log(2)),
        ('sigmoid', HIGH, ZERO, lambda tau: 1e4 / tau - 2 * math.log(2)),
    ],
)
def test_extreme_logits(mode, target, source, expected, tau):
    t, s = torch.tensor([target], requires_grad=True), torch.tensor([source])
    value = KLDivergence(tau=tau, mode=mode)(t, s)
    value.backward()
    assert value.item() == pytest.approx(tau**2 * expected(tau), rel=1e-5)
    probability = special.softmax if mode == 'softmax' else special.expit
    gradient = tau * (probability(np.array(target) / tau) - probability(np.array(source) / tau))
    np.testing.assert_allclose(t.grad[0].numpy(), gradient, atol=1e-6)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(tau=0), 'tau: expected a positive number, got 0'),
        (dict(tau=-2.0), 'tau: '),
        (dict(tau=float('inf')), 'tau: '),
        (dict(tau=float('nan')), 'tau: '),
        (dict(mode='x'), "mode: unknown name 'x'; valid: auto, softmax, sigmoid"),
        (dict(mode='softmx'), "mode: .*did you mean 'softmax'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        KLDivergence(**arguments)


@pytest.mark.parametrize('shape', [(3, 1), (3, 1, 2, 2)])
def test_one_class_has_no_softmax(shape):
    with pytest.raises(ValueError, match="one class: .*mode='sigmoid'"):
        KLDivergence(mode='softmax')(*logits(shape))
    target, source = logits(shape)
    target.requires_grad_()
    value = KLDivergence(tau=2.0)(target, source)
    value.backward()
    assert value.item() == pytest.approx(
        reference(target.detach().numpy(), source.numpy(), 2.0, 'sigmoid'), rel=1e-5
    )
    assert value > 0.1 and target.grad.all()


@pytest.mark.parametrize('shape', [(4, 5), (2, 3, 2, 2)])
def test_standardized_logits(shape):
    target, source = logits(shape)
    target.requires_grad_()
    loss = KLDivergence(tau=2.0, standardize=True)
    value = loss(target, source)
    value.backward()
    scores = [
        (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        for x in (target.detach().double().numpy(), source.double().numpy())
    ]
    assert value.item() == pytest.approx(reference(*scores, tau=2.0), rel=1e-4)
    assert target.grad.any()
    torch.testing.assert_close(loss(3 * target + 5, source / 2 - 1), value)


def test_what_cannot_be_standardized():
    with pytest.raises(ValueError, match='standardize: True is for softmax'):
        KLDivergence(mode='sigmoid', standardize=True)
    with pytest.raises(ValueError, match='standardize: one class'):
        KLDivergence(standardize=True)(torch.zeros(2, 1), torch.zeros(2, 1))
    dead = torch.zeros(2, 3, requires_grad=True)
    value = KLDivergence(standardize=True)(dead, torch.randn(2, 3))
    value.backward()
    assert value.isfinite() and dead.grad.isfinite().all()


@pytest.mark.parametrize('other', [(2, 4, 4, 4), (1, 3, 4, 4), (2, 3, 4, 2), (2, 3, 1, 1), (2, 3)])
def test_shapes_that_differ_are_refused_not_broadcast(other):
    with pytest.raises(
        ValueError, match=r'logits differ in shape: target \(2, 3, 4, 4\), source \('
    ):
        KLDivergence()(torch.zeros(2, 3, 4, 4), torch.zeros(other))


@pytest.mark.parametrize('mode', ['softmax', 'sigmoid'])
def test_what_stands_at_masked_positions_stays_out(mode):
    generator = torch.Generator().manual_seed(0)
    target, source = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    mask = torch.ones(2, 1, 4, 4)
    mask[:, :, 0] = 0
    loss = KLDivergence(tau=2.0, mode=mode)
    expected = loss(target, source, mask)
    target[:, 1, 0], source[:, 0, 0] = float('inf'), float('nan')
    target.requires_grad_()
    value = loss(target, source, mask)
    value.backward()
    assert (
        torch.equal(value, expected)
        and torch.isfinite(target.grad).all()
        and not target.grad[:, :, 0].any()
    )
