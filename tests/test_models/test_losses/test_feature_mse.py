import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmkd.models.losses import FeatureMSE
from mmkd.registry import MODELS

NORMALIZE = ['channel', 'spatial', 'none']


def reference(target, source, normalize='channel'):
    """The loss in float64 by loops; maps (N, C, H, W)."""
    target, source = np.asarray(target, dtype=np.float64), np.asarray(source, dtype=np.float64)
    n, c, h, w = target.shape
    terms = []
    for i in range(n):
        if normalize == 'channel':
            for y in range(h):
                for x in range(w):
                    t, s = target[i, :, y, x], source[i, :, y, x]
                    terms.append(
                        np.sum((t / np.sqrt(np.sum(t**2)) - s / np.sqrt(np.sum(s**2))) ** 2)
                    )
        else:
            for k in range(c):
                t, s = target[i, k], source[i, k]
                if normalize == 'spatial':
                    t, s = t / np.sqrt(np.mean(t**2)), s / np.sqrt(np.mean(s**2))
                terms.extend(((t - s) ** 2).ravel())
    return np.mean(terms)


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


def maps(shape=(2, 3, 2, 4), seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale, torch.randn(
        shape, generator=generator
    ) + 0.5


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('shape', [(2, 3, 2, 4), (1, 5, 1, 3), (3, 2, 3, 1)])
def test_value_and_gradient_are_the_references(normalize, shape):
    target, source = maps(shape)
    target.requires_grad_()
    value = MODELS.build(dict(type='mmkd.FeatureMSE', normalize=normalize))(target, source)
    value.backward()
    assert value.shape == () and value.dtype == torch.float32
    t, s = target.detach().numpy(), source.numpy()
    np.testing.assert_allclose(value.item(), reference(t, s, normalize), rtol=1e-5)
    expected = numerical_gradient(lambda x: reference(x, s, normalize), t)
    np.testing.assert_allclose(target.grad.numpy(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('normalize', ['channel', 'none'])
def test_vectors_are_maps_of_one_position(normalize):
    target, source = maps((4, 6))
    expected = reference(target[:, :, None, None], source[:, :, None, None], normalize)
    assert FeatureMSE(normalize)(target, source).item() == pytest.approx(expected, rel=1e-5)


def test_values_by_hand():
    east, north = (
        torch.tensor([[2.0, 0.0]]).view(1, 2, 1, 1),
        torch.tensor([[0.0, 5.0]]).view(1, 2, 1, 1),
    )
    assert FeatureMSE()(east, north).item() == pytest.approx(2)  # orthogonal
    assert FeatureMSE()(east, -east).item() == pytest.approx(4)  # opposite, the largest value
    assert FeatureMSE('none')(east, north).item() == pytest.approx((4 + 25) / 2)
    # spatial: (3, 4) has mean square 12.5, so it becomes (3, 4) / sqrt(12.5)
    row, ones = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    expected = ((3 / 12.5**0.5 - 1) ** 2 + (4 / 12.5**0.5 - 1) ** 2) / 2
    assert FeatureMSE('spatial')(row, ones).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_zero_for_equal_sides(normalize):
    target, _ = maps()
    target.requires_grad_()
    value = FeatureMSE(normalize)(target, target.detach().clone())
    value.backward()
    assert value.item() == 0 and not target.grad.any()


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_batch_size_resolution_and_repeated_channels_leave_the_value(normalize):
    target, source = maps()
    loss = FeatureMSE(normalize)
    value = loss(target, source)
    assert value > 0.1
    for change in (
        lambda x: x.repeat(3, 1, 1, 1),
        lambda x: x.repeat(1, 2, 1, 1),
        lambda x: F.interpolate(x, scale_factor=2),
    ):
        torch.testing.assert_close(loss(change(target), change(source)), value)


def test_what_each_normalisation_makes_scale_free():
    target, source = maps((2, 3, 4, 4))
    by_position, by_channel = torch.rand(2, 1, 4, 4) + 0.5, torch.rand(2, 3, 1, 1) + 0.5
    for normalize, free, bound in (
        ('channel', by_position, by_channel),
        ('spatial', by_channel, by_position),
    ):
        loss = FeatureMSE(normalize)
        value = loss(target, source)
        torch.testing.assert_close(loss(target * free, source / free), value)
        assert (loss(target * bound, source) - value).abs() > 1e-3
    assert FeatureMSE('none')(2 * target, 2 * source).item() == pytest.approx(
        4 * FeatureMSE('none')(target, source).item()
    )


@pytest.mark.parametrize('normalize', ['channel', 'none'])
def test_a_mask_chooses_the_positions(normalize):
    target, source = maps((2, 3, 4, 4))
    mask = (
        torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]])
        .float()
        .repeat(2, 1, 1, 1)
    )
    mask[1, 0, 2] = 1
    whole = target.clone().requires_grad_()
    value = FeatureMSE(normalize)(whole, source, mask)
    value.backward()
    chosen = mask[:, 0].bool()
    target, source = (x.movedim(1, -1)[chosen][:, :, None, None].numpy() for x in (target, source))
    assert value.item() == pytest.approx(reference(target, source, normalize), rel=1e-5)
    assert torch.equal(whole.grad.any(1), chosen)


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_nothing_valid_is_zero_and_all_valid_the_plain_mean(normalize):
    target, source = maps((2, 3, 2, 2))
    loss = FeatureMSE(normalize)
    torch.testing.assert_close(loss(target, source, torch.ones(2, 1, 8, 8)), loss(target, source))
    target.requires_grad_()
    value = loss(target, source, torch.zeros(2, 1, 8, 8))
    value.backward()
    assert value.item() == 0 and not target.grad.any()


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_compared_in_float32(normalize, dtype):
    target, source = maps((2, 8, 4, 4))
    loss = FeatureMSE(normalize)
    full = loss(target, source)
    target, source = target.to(dtype).requires_grad_(), source.to(dtype)
    value = loss(target, source)
    value.backward()
    assert value.dtype == torch.float32 and torch.equal(value, loss(target.float(), source.float()))
    assert value.item() == pytest.approx(full.item(), rel=0.02)
    assert target.grad.dtype == dtype and target.grad.isfinite().all() and target.grad.any()


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_autocast_leaves_the_loss_in_float32(normalize):
    target, source = maps((2, 4, 3, 3))
    convolution = torch.nn.Conv2d(4, 4, 1)
    loss = FeatureMSE(normalize)
    full = loss(convolution(target), source)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert convolution(target).dtype == torch.bfloat16
        value = loss(convolution(target), source)
    value.backward()
    assert value.dtype == torch.float32 and value.item() == pytest.approx(full.item(), rel=0.02)
    assert convolution.weight.grad.isfinite().all() and convolution.weight.grad.any()


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('size', [1e4, 1e-2])
def test_extreme_features(normalize, size):
    target, source = maps()
    target, source = (target * size).requires_grad_(), source.sign() * size
    value = FeatureMSE(normalize)(target, source)
    value.backward()
    expected = reference(target.detach().numpy(), source.numpy(), normalize)
    assert value.item() == pytest.approx(expected, rel=1e-4) and target.grad.isfinite().all()


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_maps_of_zeros(normalize):
    """A dead map has no direction: the distance is the other side's mean square alone."""
    _, source = maps()
    target = torch.zeros_like(source, requires_grad=True)
    value = FeatureMSE(normalize)(target, source)
    value.backward()
    assert value.item() == pytest.approx(
        source.square().mean().item() if normalize == 'none' else 1, rel=1e-5
    )
    assert target.grad.isfinite().all()
    assert FeatureMSE(normalize)(target, target).item() == 0


@pytest.mark.parametrize(
    'value, message',
    [
        ('x', "normalize: unknown name 'x'; valid: channel, spatial, none"),
        ('chanel', "normalize: .*did you mean 'channel'"),
        (None, 'normalize: unknown name None'),
    ],
)
def test_wrong_arguments(value, message):
    with pytest.raises(ValueError, match=message):
        FeatureMSE(value)


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('other', [(2, 4, 4, 4), (1, 3, 4, 4), (2, 3, 4, 2), (2, 3, 1, 1), (2, 3)])
def test_shapes_that_differ_are_refused_not_broadcast(normalize, other):
    with pytest.raises(
        ValueError, match=r'features differ in shape: target \(2, 3, 4, 4\), source \('
    ):
        FeatureMSE(normalize)(torch.ones(2, 3, 4, 4), torch.ones(other))


@pytest.mark.parametrize('normalize', ['channel', 'spatial', 'none'])
def test_masked_positions_reach_neither_value_nor_gradient(normalize):
    generator = torch.Generator().manual_seed(0)
    target, source = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    mask = torch.ones(2, 1, 8, 8)
    mask[:, :, :2] = 0
    loss = FeatureMSE(normalize)
    expected = loss(target, source, mask)
    target[:, :, 0], source[:, :, 0] = float('inf'), float('nan')
    target.requires_grad_()
    value = loss(target, source, mask)
    value.backward()
    assert (
        torch.equal(value, expected)
        and torch.isfinite(target.grad).all()
        and not target.grad[:, :, 0].any()
    )


@pytest.mark.parametrize('normalize', ['channel', 'spatial'])
def test_the_gradient_at_zero_vectors_is_bounded(normalize):
    target = torch.zeros(1, 4, 2, 2, requires_grad=True)
    FeatureMSE(normalize)(target, torch.randn(1, 4, 2, 2)).backward()
    assert target.grad.abs().max() < 1e4


def test_spatial_form_refuses_vectors():
    with pytest.raises(ValueError, match='spatial'):
        FeatureMSE('spatial')(torch.zeros(2, 3), torch.zeros(2, 3))
