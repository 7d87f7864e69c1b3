import copy

import pytest
import torch

from mmkd.models.connectors import AffineFreeNorm, ConvConnector, ResizeConnector
from mmkd.registry import MODELS
from mmkd.utils.checks import build_checked

SIZES = [
    ((8, 8), (8, 8)),
    ((8, 8), (4, 4)),
    ((4, 4), (8, 8)),
    ((7, 5), (3, 2)),
    ((3, 2), (7, 5)),
    ((8, 2), (4, 6)),
]


@pytest.mark.parametrize('size, like', SIZES)
@pytest.mark.parametrize('channels, wanted', [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize('kernel_size', [1, 3])
def test_conv_connector_gives_the_sources_shape(size, like, channels, wanted, kernel_size):
    connector = build_checked(
        MODELS,
        dict(type='ConvConnector', kernel_size=kernel_size),
        'connector',
        in_channels=channels,
        out_channels=wanted,
    )
    out = connector(torch.randn(2, channels, *size), torch.randn(2, wanted, *like))
    assert out.shape == (2, wanted, *like) and out.isfinite().all()


@pytest.mark.parametrize('norm', ['BN', dict(type='BN', momentum=0.3, eps=0.1)])
def test_a_folded_batch_norm_is_the_batch_norm(norm):
    """Values, gradients and running statistics, against the convolution and the norm in turn."""
    norm = dict(type=norm) if isinstance(norm, str) else norm
    connector = ConvConnector(3, 7, norm_cfg=norm)
    plain = copy.deepcopy(connector.conv)
    for module in (connector.conv, plain):
        torch.nn.init.constant_(module.norm.weight, 1.5)
        torch.nn.init.constant_(module.norm.bias, 0.5)
    images = torch.rand(4, 3, 5, 6) * torch.tensor([1.0, 0.1, 3.0]).view(3, 1, 1) + 2
    wanted = torch.randn(4, 7, 5, 6)
    results = []
    for step, x in ((lambda x: connector(x, wanted), images), (plain, images.clone())):
        x.requires_grad_()
        for _ in range(2):
            out = step(x)
        (out * wanted).sum().backward()
        module = connector.conv if step is not plain else plain
        results.append([out, x.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    assert connector._folds(images) and len(results[0]) == 8
    for own, other in zip(*results):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    connector.eval(), plain.eval()
    torch.testing.assert_close(connector(images, wanted), plain(images), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        ConvConnector(3, 7)(torch.zeros(1, 3), torch.zeros(1, 7))


def test_a_folded_batch_norm_is_finite_where_channels_cancel():
    """The variance of what is left of two nearly equal channels can round below 0."""
    connector = ConvConnector(2, 7, norm_cfg=dict(type='BN'))
    for seed in range(20):
        torch.manual_seed(seed)
        torch.nn.init.normal_(connector.conv.conv.weight)
        connector.conv.conv.weight.data[:, 1] = -connector.conv.conv.weight.data[:, 0]
        one = 1e3 * torch.randn(4, 1, 5, 6)
        images = torch.cat([one, one + 1e-3 * torch.randn_like(one)], 1)
        assert connector._folds(images) and connector(images, images).isfinite().all()
        assert (connector.conv.norm.running_var >= 0).all()


@pytest.mark.parametrize('size, like', SIZES)
def test_resize_connector_gives_the_sources_size(size, like):
    """The channels of x are kept, whatever the source's; a constant map stays constant."""
    connector = build_checked(MODELS, 'ResizeConnector', 'connector')
    x = torch.full((2, 3, *size), 0.25)
    out = connector(x, torch.randn(2, 7, *like))
    assert out.shape == (2, 3, *like)
    torch.testing.assert_close(out, torch.full_like(out, 0.25))
    assert not list(connector.parameters())


def test_resizing_by_hand():
    connector = ResizeConnector()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(connector(x, torch.zeros(1, 1, 4, 4)), x)
    assert connector(x, torch.zeros(1, 1, 2, 2)).flatten().tolist() == [
        2.5,
        4.5,
        10.5,
        12.5,
    ]  # means of 2x2
    assert connector(x, torch.zeros(1, 1, 1, 4)).flatten().tolist() == [
        6,
        7,
        8,
        9,
    ]  # means of columns
    row = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    assert connector(row, torch.zeros(1, 1, 1, 4)).flatten().tolist() == [
        0,
        1,
        3,
        4,
    ]  # linear between pixel centres


def test_the_convolution_is_followed_by_a_norm_and_no_activation():
    torch.manual_seed(1)
    connector = ConvConnector(3, 6)
    x = torch.randn(4, 3, 5, 5) * 7 + 2
    out = connector(x, torch.zeros(4, 6, 5, 5))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((0, 2, 3), unbiased=False), torch.ones(6), atol=1e-3, rtol=0)
    plain = ConvConnector(3, 3, norm_cfg=None)
    with torch.no_grad():
        plain.conv.conv.weight.copy_(-torch.eye(3).view(3, 3, 1, 1))
        plain.conv.conv.bias.fill_(0.5)
    torch.testing.assert_close(plain(x, x), 0.5 - x)


@pytest.mark.parametrize('like', [(8, 8), (4, 4), (16, 16)])
@pytest.mark.parametrize(
    'kernel_size, norm_cfg', [(1, dict(type='BN')), (3, dict(type='GN', num_groups=2)), (3, None)]
)
def test_the_gradient_reaches_the_convolution_and_the_target_not_the_source(
    like, kernel_size, norm_cfg
):
    connector = ConvConnector(3, 4, kernel_size=kernel_size, norm_cfg=norm_cfg)
    x, source = (
        torch.randn(2, 3, 8, 8, requires_grad=True),
        torch.randn(2, 4, *like, requires_grad=True),
    )
    (connector(x, source) ** 3).sum().backward()
    names = [name for name, _ in connector.named_parameters()]
    assert 'conv.conv.weight' in names and len(names) == (3 if norm_cfg else 2)
    for name, parameter in connector.named_parameters():
        assert (
            parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()
        ), name
    assert x.grad.any() and source.grad is None


@pytest.mark.parametrize('kernel_size', [1, 3])
def test_vectors_are_maps_of_one_position(kernel_size):
    connector = ConvConnector(3, 5, kernel_size=kernel_size).eval()
    x = torch.randn(4, 3, requires_grad=True)
    out = connector(x, torch.randn(4, 5))
    assert out.shape == (4, 5)
    torch.testing.assert_close(
        out[:, :, None, None], connector(x[:, :, None, None], torch.randn(4, 5, 1, 1))
    )
    out.square().sum().backward()
    assert x.grad.any() and connector.conv.conv.weight.grad.any()


@pytest.mark.parametrize('kernel_size', [0, 2, 4])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f'kernel_size: expected an odd number, got {kernel_size}'):
        ConvConnector(3, 3, kernel_size=kernel_size)
    with pytest.raises(ValueError, match='links.0.connector: kernel_size: expected an odd number'):
        build_checked(
            MODELS,
            dict(type='ConvConnector', kernel_size=kernel_size),
            'links.0.connector',
            in_channels=3,
            out_channels=3,
        )


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(type='ConvConector'),
            "connector.type: unknown name 'ConvConector'; did you mean 'ConvConnector'",
        ),
        (
            dict(type='ConvConnector', kernel=3),
            "connector.kernel: unknown name 'kernel'; did you mean 'kernel_size'",
        ),
        (
            dict(type='ConvConnector', in_channels=3),
            "connector.in_channels: unknown name 'in_channels'",
        ),
        (dict(kernel_size=3), "connector: expected a config with 'type'"),
    ],
)
def test_wrong_connector_configs(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_checked(MODELS, cfg, 'connector', in_channels=3, out_channels=3)


@pytest.mark.parametrize('shape', [(4, 3, 5, 5), (4, 3), (1, 3, 2, 2)])
def test_the_affine_free_norm_is_a_batch_norm_without_weights(shape):
    connector = build_checked(MODELS, 'AffineFreeNorm', 'connector')
    assert not connector.state_dict()
    x = (3 * torch.randn(shape) + 2).requires_grad_()
    expected = torch.nn.functional.batch_norm(x, None, None, training=True)
    for mode in (True, False):
        torch.testing.assert_close(connector.train(mode)(x, x), expected)
    half = connector(x.bfloat16())
    assert half.dtype == torch.float32 and torch.equal(half, connector(x.bfloat16().float()))
    (connector(x) ** 3).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_a_channel_with_one_value_has_no_norm():
    x = torch.randn(1, 3, 1, 1, requires_grad=True)
    value = AffineFreeNorm()(x)
    value.sum().backward()
    assert not value.any() and x.grad.isfinite().all()
    with pytest.raises(ValueError, match='eps: expected a number >= 0, got -1'):
        AffineFreeNorm(eps=-1)
