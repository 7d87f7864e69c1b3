import mmcv.ops as mmcv_ops
import pytest
import torch
from mmcv.ops.roi_align import RoIAlignFunction

from mmkd.utils.memory_format import let_operators_read_channels_last

BOXES = torch.tensor([[0, 10.0, 10, 60, 70], [1, 5, 5, 90, 100]])
ROTATED = torch.tensor([[0, 40.0, 40, 30, 30, 0.3], [1, 60, 50, 30, 20, 0.1]])


@pytest.fixture
def make_operator():
    """Makes an operator and what it reads beside a map of 8 channels, 16 x 16."""
    offset, mask = torch.randn(2, 18, 16, 16), torch.rand(2, 9, 16, 16)
    conv = dict(in_channels=8, out_channels=4, kernel_size=3, padding=1)
    made = dict(
        RoIAlign=lambda: (mmcv_ops.RoIAlign(7, 1 / 8, 0), (BOXES,)),
        RoIAlignRotated=lambda: (mmcv_ops.RoIAlignRotated(7, 1 / 8, 2), (ROTATED,)),
        DeformConv2d=lambda: (mmcv_ops.DeformConv2d(**conv), (offset,)),
        ModulatedDeformConv2d=lambda: (mmcv_ops.ModulatedDeformConv2d(**conv), (offset, mask)),
        ModulatedDeformConv2dPack=lambda: (mmcv_ops.ModulatedDeformConv2dPack(**conv), ()),
    )
    return lambda name: made[name]()


@pytest.mark.parametrize(
    'name',
    [
        'RoIAlign',
        'RoIAlignRotated',
        'DeformConv2d',
        'ModulatedDeformConv2d',
        'ModulatedDeformConv2dPack',
    ],
)
def test_operators_read_channels_last_maps_as_plain_ones(name, make_operator, plain_operators):
    let_operators_read_channels_last()
    operator, rest = make_operator(name)
    plain = torch.randn(2, 8, 16, 16, requires_grad=True)
    expected = operator(plain, *rest)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    expected_gradients = [plain.grad, *(p.grad.clone() for p in operator.parameters())]

    operator.zero_grad()
    operator.to(memory_format=torch.channels_last)
    moved = plain.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    rest = [r.contiguous(memory_format=torch.channels_last) if r.dim() == 4 else r for r in rest]
    value = operator(moved, *rest)
    value.backward(gradient.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(value, expected)
    gradients = [moved.grad, *(p.grad for p in operator.parameters())]
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_it_acts_once(plain_operators):
    let_operators_read_channels_last()
    forward = RoIAlignFunction.forward
    let_operators_read_channels_last()
    assert RoIAlignFunction.forward is forward
