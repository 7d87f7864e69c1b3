"""ChannelSplit, FactorAutoEncoder and InheritExplore alone."""

import copy

import pytest
import torch
import torch.nn.functional as F

from mmkd.models.connectors import ChannelSplit, FactorAutoEncoder, InheritExplore
from mmkd.registry import MODELS
from mmkd.utils.checks import build_checked


@pytest.mark.parametrize('shape', [(3, 10, 4, 5), (3, 10)])
@pytest.mark.parametrize('mode', ['natural', 'random'])
@pytest.mark.parametrize('ratio, count', [(0.5, 5), (0.25, 2), (0.8, 8), (0.99, 10), (0.01, 0)])
def test_both_parts_are_all_channels_once(shape, mode, ratio, count):
    if not 0 < count < 10:
        with pytest.raises(
            ValueError, match=f'ratio: {ratio} of 10 channels leaves a part without any'
        ):
            ChannelSplit(10, ratio=ratio, mode=mode)
        return
    x = torch.randn(shape)
    torch.manual_seed(3)
    inherit = ChannelSplit(10, 'inherit', ratio, mode)
    torch.manual_seed(3)
    explore = ChannelSplit(10, 'explore', ratio, mode)
    one, other = inherit(x), explore(x)
    assert one.shape == (3, count, *shape[2:]) and other.shape == (3, 10 - count, *shape[2:])
    whole = torch.cat([one, other], 1)
    if mode == 'natural':
        assert torch.equal(whole, x)
    else:
        assert not torch.equal(whole, x) and torch.equal(whole[:, inherit.order.argsort()], x)


def test_the_permutation_is_drawn_once_from_the_seed_and_saved():
    torch.manual_seed(1)
    one, other = ChannelSplit(32, mode='random'), ChannelSplit(32, mode='random')
    assert not torch.equal(one.order, other.order) and sorted(one.order.tolist()) == list(range(32))
    seeded = [ChannelSplit(32, mode='random', seed=7).order for _ in range(2)]
    assert torch.equal(*seeded) and not torch.equal(seeded[0], one.order)
    assert not list(one.parameters()) and 'order' in one.state_dict()
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 32)
    assert torch.equal(one(x), other(x)) and torch.equal(one(x), copy.deepcopy(one)(x))


def test_no_gradient_reaches_the_other_part():
    split = ChannelSplit(6, 'inherit', 0.5, 'random')
    x = torch.randn(2, 6, 3, 3, requires_grad=True)
    split(x).square().sum().backward()
    assert x.grad[:, split.order[:3]].all() and not x.grad[:, split.order[3:]].any()


def layers(module):
    return [tuple(m.weight.shape) for m in module.modules() if isinstance(m, torch.nn.Conv2d)]


def test_the_networks_are_the_methods():
    """c -> c -> k -> k with k = rate * c, and mirrored; batch norm, leaky rectifier (0.1)."""
    auto_encoder = FactorAutoEncoder(8, rate=0.5, joint=True)
    assert layers(auto_encoder.encoder) == [(8, 8, 3, 3), (4, 8, 3, 3), (4, 4, 3, 3)]
    assert layers(auto_encoder.decoder) == [(4, 4, 3, 3), (8, 4, 3, 3), (8, 8, 3, 3)]
    for name in ('BatchNorm2d', 'LeakyReLU'):
        found = [m for m in auto_encoder.modules() if type(m).__name__ == name]
        assert len(found) == (6 if name == 'BatchNorm2d' else 7)
        assert name == 'BatchNorm2d' or {m.negative_slope for m in found} == {0.1}
    assert layers(FactorAutoEncoder(7, rate=0.3).encoder)[-1] == (2, 2, 3, 3)
    assert layers(FactorAutoEncoder(3, rate=0.1).encoder)[-1] == (1, 1, 3, 3)
    student = InheritExplore(10, 4, ratio=0.3)
    assert layers(student.encoders['inherit']) == [(3, 3, 3, 3), (4, 3, 3, 3), (4, 4, 3, 3)]
    assert layers(student.encoders['explore']) == [(7, 7, 3, 3), (4, 7, 3, 3), (4, 4, 3, 3)]


def test_the_factor_is_detached_and_the_reconstruction_trains_encoder_and_decoder_alone():
    auto_encoder = FactorAutoEncoder(6, joint=True).train()
    x = torch.randn(4, 6, 5, 5, requires_grad=True)
    before = x.detach().clone()
    factor, terms = auto_encoder(x)
    assert (
        factor.shape == (4, 3, 5, 5)
        and not factor.requires_grad
        and list(terms) == ['reconstruction']
    )
    terms['reconstruction'].backward()
    assert all(
        p.grad is not None and p.grad.any() for p in auto_encoder.parameters() if p.dim() > 1
    )
    assert x.grad is None and torch.equal(x, before)  # the rectifier at the start is not in place
    other = copy.deepcopy(auto_encoder)  # in training mode: batch statistics
    expected = F.l1_loss(other.decoder(other.encoder(x.detach())), x.detach())
    torch.testing.assert_close(terms['reconstruction'], expected)


def test_the_auto_encoder_learns_to_rebuild():
    torch.manual_seed(0)
    auto_encoder = FactorAutoEncoder(8, joint=True).train()
    x = F.interpolate(torch.randn(8, 2, 3, 3), size=6, mode='bilinear').relu().repeat(1, 4, 1, 1)
    optimizer = torch.optim.SGD(auto_encoder.parameters(), lr=0.1, momentum=0.9)
    values = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = auto_encoder(x)[1]['reconstruction']
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert (
        values[-1] < 0.5 * (x - x.mean((0, 2, 3), keepdim=True)).abs().mean()
    )  # far better than the channels' means


def test_one_to_be_trained_before_is_frozen_and_says_so_if_it_was_not():
    auto_encoder = FactorAutoEncoder(6)
    x = torch.randn(2, 6, 4, 4)
    assert (
        not any(p.requires_grad for p in auto_encoder.parameters())
        and not auto_encoder.train().training
    )
    with torch.no_grad():
        auto_encoder(x)  # the build's probe
    with pytest.raises(
        RuntimeError,
        match='not trained yet: add custom_hooks=.*mmkd.FactorPretrainHook.*joint=True',
    ):
        auto_encoder(x)
    assert auto_encoder.fits_first and not auto_encoder.fitted
    auto_encoder.learn(True)
    assert auto_encoder.training and auto_encoder(x).terms
    auto_encoder.fitted = True
    auto_encoder.learn(False)
    before = copy.deepcopy(auto_encoder.state_dict())
    factor = auto_encoder.train()(x)
    assert isinstance(factor, torch.Tensor) and not factor.requires_grad
    assert all(
        torch.equal(value, before[key]) for key, value in auto_encoder.state_dict().items()
    )  # norms stay, too
    resumed = FactorAutoEncoder(6)
    resumed.load_state_dict(before)
    assert resumed.fitted and torch.equal(resumed(x), factor)


def test_both_encoders_learn_and_each_sees_its_channels_alone():
    student = InheritExplore(6, 4, mode='random')
    x = torch.randn(3, 6, 5, 5, requires_grad=True)
    factors = student(x)
    assert {name: tuple(factor.shape) for name, factor in factors.items()} == dict(
        inherit=(3, 4, 5, 5), explore=(3, 4, 5, 5)
    )
    for name, channels in (
        ('inherit', student.split.order[:3]),
        ('explore', student.split.order[3:]),
    ):
        x.grad = None
        factors[name].square().sum().backward(retain_graph=True)
        touched = x.grad.abs().sum((0, 2, 3)) > 0
        assert set(touched.nonzero().flatten().tolist()) == set(channels.tolist())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(type='ChannelSplit', part='inherited'),
            "part: unknown name 'inherited'; did you mean 'inherit'",
        ),
        (
            dict(type='ChannelSplit', mode='randm'),
            "mode: unknown name 'randm'; did you mean 'random'",
        ),
        (dict(type='ChannelSplit', ratio=1), r'ratio: expected a number in \(0, 1\), got 1'),
        (dict(type='ChannelSplit', ratio=0.0), r'ratio: expected a number in \(0, 1\), got 0.0'),
        (
            dict(type='ChannelSplit', ratio='half'),
            r"ratio: expected a number in \(0, 1\), got 'half'",
        ),
        (
            dict(type='InheritExplore', ratio=0.01),
            'ratio: 0.01 of 8 channels leaves a part without any',
        ),
        (dict(type='FactorAutoEncoder', rate=0), r'rate: expected a number in \(0, 1\], got 0'),
        (
            dict(type='FactorAutoEncoder', rte=0.5),
            "connector.rte: unknown name 'rte'; did you mean 'rate'",
        ),
    ],
)
def test_wrong_arguments(cfg, message):
    given = (
        dict(in_channels=8, out_channels=8)
        if cfg['type'] == 'InheritExplore'
        else dict(in_channels=8)
    )
    with pytest.raises(ValueError, match=message):
        build_checked(MODELS, cfg, 'connector', **given)


@pytest.mark.parametrize('module', [FactorAutoEncoder(8, joint=True), InheritExplore(8, 4)])
def test_vectors_have_no_factor(module):
    with pytest.raises(ValueError, match=r'factors are of maps \(N, C, H, W\), got \(2, '):
        module(torch.randn(2, 8))
