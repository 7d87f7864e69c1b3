"""Values of the losses of features against independent computations in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special

from mmkd.models.losses import ChannelWise, FeatureMSE, PearsonFeature


def maps(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = 2 * torch.randn(shape, generator=generator)
    return target, target / 2 + torch.randn(shape, generator=generator) + 0.5


def columns(x, mask=None):
    """Channels by positions of the batch that count, in float64."""
    flat = x.movedim(1, 0).flatten(1).double().numpy()
    return flat if mask is None else flat[:, mask.flatten().bool().numpy()]


@pytest.mark.parametrize(
    'shape, masked',
    [((2, 3, 4, 4), False), ((2, 3, 4, 4), True), ((1, 2, 3, 5), True), ((6, 4), False)],
)
def test_pearson_is_one_less_the_correlation(shape, masked):
    target, source = maps(shape)
    mask = None
    if masked:
        mask = torch.ones(shape[0], 1, *shape[2:])
        mask[0, :, 1] = 0
    value = PearsonFeature()(target, source, mask)
    expected = [
        1 - np.corrcoef(t, s)[0, 1] for t, s in zip(columns(target, mask), columns(source, mask))
    ]
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-4)


def standardized(x, mask):
    """Each channel at mean 0 and deviation 1, or divided by 1e-3, one operation after the other."""
    share = torch.ones_like(x[:, :1]) if mask is None else mask
    share = share / share.sum()
    dims = [d for d in range(x.dim()) if d != 1]
    centered = x - (x * share).sum(dims, keepdim=True)
    variance = (centered.square() * share).sum(dims, keepdim=True)
    return centered * variance.clamp(min=1e-6).rsqrt(), share


@pytest.mark.parametrize(
    'shape, masked', [((2, 3, 4, 4), False), ((2, 3, 4, 4), True), ((6, 3), False)]
)
def test_gradients_of_pearson_are_those_of_single_operations(shape, masked):
    target, source = maps(shape)
    target[:, 1] *= 1e-5  # hardly varies
    source[:, 2] *= 1e-5
    mask = None
    if masked:
        mask = torch.rand(
            shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(1)
        ).round()
        target[~mask.bool().expand_as(target)] = float('inf')
    sides = [x.requires_grad_() for x in (target, source)]
    value = PearsonFeature()(*sides, mask)
    value.backward()
    plain = [torch.nan_to_num(x.detach(), posinf=0).double().requires_grad_() for x in sides]
    (t, share), (s, _) = (standardized(x, mask) for x in plain)
    expected = ((t - s).square().mean(1, keepdim=True) * share).sum() / 2
    expected.backward()
    torch.testing.assert_close(value, expected.float())
    for own, other in zip(sides, plain):
        scale = other.grad.abs().amax([d for d in range(own.dim()) if d != 1], keepdim=True)
        difference = (own.grad - other.grad) / scale
        assert difference.abs().max() < 2e-4  # where one side hardly varies, else 1e-6


@pytest.mark.parametrize('shape', [(2, 3, 4, 4), (6, 3)])
def test_gradients_of_feature_mse_are_those_of_single_operations(shape):
    sides = maps(shape)
    sides[0][0] *= 1e-4  # shorter than 1e-3
    sides[0][1] = 0
    sides[1][1] *= 1e-5
    values = []
    for normalized in (False, True):
        t, s = (x.double() if normalized else x.clone() for x in sides)
        t.requires_grad_(), s.requires_grad_()
        if normalized:
            difference = F.normalize(t, dim=1, eps=1e-3) - F.normalize(s, dim=1, eps=1e-3)
            value = difference.square().sum(1).mean()
        else:
            value = FeatureMSE()(t, s)
        value.backward()
        values.append([value.float(), t.grad.float(), s.grad.float()])
    for own, other in zip(*values):
        scale = other.abs().amax() if other.dim() else 1
        assert (own - other).abs().max() < 1e-5 * scale


@pytest.mark.parametrize('loss', [PearsonFeature(), FeatureMSE()])
def test_one_side_twice_is_exactly_0(loss):
    target, source = maps((2, 3, 4, 4))
    assert loss(target, target.clone()).item() == 0
    values = [loss(target, source) for _ in range(2)]  # the second with the source's moments kept
    source.add_(1 + source.square())
    assert values[0] == values[1] != loss(target, source)


def test_pearson_ignores_each_channels_scale_and_offset():
    target, source = maps((2, 3, 4, 4))
    scale, offset = torch.rand(1, 3, 1, 1) + 0.5, torch.randn(1, 3, 1, 1)
    loss = PearsonFeature()
    torch.testing.assert_close(loss(scale * target + offset, source), loss(target, source))
    assert loss(-source, source).item() == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize('tau', [1.0, 4.0])
@pytest.mark.parametrize('masked', [False, True])
def test_channel_wise(tau, masked):
    target, source = maps((2, 3, 4, 4))
    mask = torch.ones(2, 1, 4, 4)
    if masked:
        mask[0, :, 1] = 0
    value = ChannelWise(tau)(target, source, mask if masked else None)
    terms = []
    for i in range(2):
        valid = mask[i].flatten().bool().numpy()
        for t, s in zip(target[i].flatten(1).double(), source[i].flatten(1).double()):
            p, q = (special.softmax(x.numpy()[valid] / tau) for x in (s, t))
            terms.append(special.rel_entr(p, q).sum())
    assert value.item() == pytest.approx(tau**2 * np.mean(terms), rel=1e-4)


def test_spatial_normalization_is_over_the_positions_that_count():
    """Half of a map masked: the other half's value, where it was twice that before."""
    target, source = maps((2, 3, 4, 4))
    mask = torch.ones(2, 1, 4, 4)
    mask[..., 2:] = 0
    loss = FeatureMSE('spatial')
    torch.testing.assert_close(loss(target, source, mask), loss(target[..., :2], source[..., :2]))


@pytest.mark.parametrize('loss', [PearsonFeature(), FeatureMSE()])
def test_shapes_that_differ_are_refused(loss):
    with pytest.raises(ValueError, match=r'features differ in shape: target \(2, 3, 4, 4\)'):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))


def test_what_channel_wise_cannot_compare():
    with pytest.raises(ValueError, match=r'maps \(N, C, H, W\) are compared, got target \(2, 3\)'):
        ChannelWise()(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match='features differ in shape'):
        ChannelWise()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match='tau: expected a positive number'):
        ChannelWise(tau=0)
