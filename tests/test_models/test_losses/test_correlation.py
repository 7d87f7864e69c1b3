"""ChannelCorrelation and SpatialCorrelation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmkd.models.losses import ChannelCorrelation, SpatialCorrelation

LOSSES = dict(channel=ChannelCorrelation, spatial=SpatialCorrelation)
KINDS = list(LOSSES)


def gram(x, kind):
    """G of one map (C, H, W) in float64 by loops over its pairs."""
    a = np.asarray(x, dtype=np.float64).reshape(x.shape[0], -1)
    vectors = a if kind == 'channel' else a.T
    vectors = [v / np.sqrt(np.mean(v**2)) for v in vectors]
    return np.array([[np.sum(v * w) / len(v) for w in vectors] for v in vectors])


def reference(target, source, kind):
    values = []
    for t, s in zip(np.asarray(target), np.asarray(source)):
        difference = gram(t, kind) - gram(s, kind)
        values.append(np.sum(difference**2) / len(difference) ** 2)
    return np.mean(values)


def maps(shape=(2, 3, 2, 4), other=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 2, torch.randn(
        other or shape, generator=generator
    ) + 0.5


@pytest.mark.parametrize(
    'kind, shape, other',
    [
        ('channel', (2, 3, 2, 4), None),
        ('channel', (1, 5, 1, 3), None),
        ('channel', (3, 4, 4, 2), (3, 4, 2, 5)),
        ('spatial', (2, 3, 2, 4), None),
        ('spatial', (2, 6, 3, 2), (2, 4, 3, 2)),
        ('spatial', (1, 1, 2, 2), (1, 9, 2, 2)),
    ],
)
def test_value_and_gradient_are_the_references(kind, shape, other):
    target, source = maps(shape, other)
    target.requires_grad_()
    value = LOSSES[kind]()(target, source)
    value.backward()
    assert value.shape == () and value.dtype == torch.float32
    start, step = target.detach().double().numpy(), 1e-5
    np.testing.assert_allclose(value.item(), reference(start, source.numpy(), kind), rtol=1e-5)
    numerical = np.zeros(start.shape)
    for index in np.ndindex(*start.shape):
        moved = [start.copy(), start.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        numerical[index] = (
            reference(moved[0], source, kind) - reference(moved[1], source, kind)
        ) / (2 * step)
    np.testing.assert_allclose(target.grad.numpy(), numerical, rtol=2e-3, atol=1e-5)


def test_values_by_hand():
    same, opposite = (
        torch.tensor([[1.0, 2.0], [1.0, 2.0]]),
        torch.tensor([[1.0, 2.0], [-1.0, -2.0]]),
    )
    one, other = same.view(1, 2, 1, 2), opposite.view(1, 2, 1, 2)
    # G is all 1 for the one, [[1, -1], [-1, 1]] for the other: (0 + 4 + 4 + 0) / 4
    assert ChannelCorrelation()(one, other).item() == pytest.approx(2)
    assert SpatialCorrelation()(one.mT.reshape(1, 2, 1, 2), other).item() == pytest.approx(
        0
    )  # both: positions alike


@pytest.mark.parametrize('kind', KINDS)
def test_batch_size_resolution_channels_and_scale_leave_the_value(kind):
    target, source = maps((2, 3, 4, 4))
    loss = LOSSES[kind]()
    value = loss(target, source)
    assert value > 0.05
    for change in (
        lambda x: x.repeat(3, 1, 1, 1),
        lambda x: x.repeat(1, 2, 1, 1),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: 5 * x,
    ):
        torch.testing.assert_close(loss(change(target), change(source)), value)
    assert loss(source, source) == 0
    free = torch.rand(2, 3, 1, 1) + 0.5 if kind == 'channel' else torch.rand(2, 1, 4, 4) + 0.5
    torch.testing.assert_close(loss(target * free, source), value)


def test_positions_are_pooled_and_brought_to_the_sources():
    target, source = maps((2, 3, 8, 8), (2, 5, 8, 8))
    value = SpatialCorrelation(max_size=4)(target, source)
    torch.testing.assert_close(
        value, SpatialCorrelation()(*(F.adaptive_avg_pool2d(x, 4) for x in (target, source)))
    )
    small = F.adaptive_avg_pool2d(source, 4)
    torch.testing.assert_close(SpatialCorrelation()(target, small), value)
    torch.testing.assert_close(
        SpatialCorrelation()(F.adaptive_avg_pool2d(target, 2), small),
        SpatialCorrelation()(
            F.interpolate(F.adaptive_avg_pool2d(target, 2), size=4, mode='bilinear'), small
        ),
    )
    huge = torch.randn(1, 2, 96, 64)
    assert SpatialCorrelation()._correlation(F.adaptive_avg_pool2d(huge, 32)).shape == (
        1,
        1024,
        1024,
    )
    torch.testing.assert_close(
        SpatialCorrelation()(huge, -2 * huge), torch.tensor(0.0), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize('kind', KINDS)
def test_a_mask_chooses_the_positions(kind):
    target, source = maps((2, 3, 4, 4))
    columns = torch.tensor([1, 1, 0, 1.0])
    mask = columns.expand(2, 1, 8, 4).contiguous()
    loss = LOSSES[kind]()
    expected = loss(target[..., columns.bool()], source[..., columns.bool()])
    target[..., 2], source[..., 2] = float('inf'), float('nan')
    target.requires_grad_()
    value = loss(target, source, mask)
    value.backward()
    torch.testing.assert_close(value, expected)
    assert (
        target.grad.isfinite().all() and not target.grad[..., 2].any() and target.grad[..., 1].any()
    )
    clean, other = maps((2, 3, 4, 4))
    torch.testing.assert_close(loss(clean, other, torch.ones(2, 1, 4, 4)), loss(clean, other))
    assert loss(clean, other, torch.zeros(2, 1, 4, 4)) == 0


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_float32(kind, dtype):
    target, source = maps((2, 4, 4, 4))
    loss = LOSSES[kind]()
    full = loss(target, source)
    target, source = target.to(dtype).requires_grad_(), source.to(dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(target, source)
    value.backward()
    assert torch.equal(value, loss(target.float(), source.float())) and value.dtype == torch.float32
    assert (
        value.item() == pytest.approx(full.item(), rel=0.05)
        and target.grad.isfinite().all()
        and target.grad.any()
    )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('scale', [0, 1e-4, 1e4])
def test_dead_and_extreme_maps(kind, scale):
    target, source = maps((2, 4, 3, 3))
    target = (target * scale).requires_grad_()
    value = LOSSES[kind]()(target, source)
    value.backward()
    assert value.isfinite() and target.grad.isfinite().all() and target.grad.abs().max() < 1e4


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(
        ValueError,
        match=r'same number of channels are compared: target \(2, 3, 4, 4\), source \(2, 5, 4, 4\)',
    ):
        ChannelCorrelation()(torch.ones(2, 3, 4, 4), torch.ones(2, 5, 4, 4))
    for loss in (ChannelCorrelation(), SpatialCorrelation()):
        with pytest.raises(ValueError, match=r'\(2, 3\)'):
            loss(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match='maps of one position have no correlation'):
        SpatialCorrelation()(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 1, 1))
    with pytest.raises(ValueError, match='max_size: expected an integer >= 1, got 0'):
        SpatialCorrelation(max_size=0)
