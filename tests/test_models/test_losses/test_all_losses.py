"""What holds for every loss; the values are tested loss by loss in the other files."""

import pytest
import torch
import torch.nn.functional as F
from loss_cases import CASES, dense
from mmengine.structures import PixelData

from mmkd.models import losses
from mmkd.models.losses import DenseDetectionLoss, DistillationLoss, InheritExploreLoss

MASKABLE = [case for case in CASES if case.maskable and len(case.shape) == 4]


def named(cases):
    return pytest.mark.parametrize('case', cases, ids=lambda case: case.name)


def test_every_loss_has_a_case():
    tested = {case.cfg['type'] for case in CASES} | {
        'DenseDetectionLoss',
        'DetectionLoss',
        'InheritExploreLoss',
    }
    registered = {
        name
        for name in losses.__dict__
        if isinstance(getattr(losses, name), type)
        and issubclass(getattr(losses, name), DistillationLoss)
    }
    assert registered - {'DistillationLoss'} == tested


@named(CASES)
def test_a_positive_scalar_whose_gradient_reaches_the_target(case):
    target, source = case.sides()
    target.requires_grad_()
    value = case.build()(target, source, **case.context())
    value.backward()
    assert value.shape == () and value.dtype == torch.float32 and value > 1e-3
    assert target.grad.isfinite().all() and target.grad.any()


@named([case for case in CASES if case.zero_for_equal])
def test_zero_for_equal_sides(case):
    _, source = case.sides()
    target = source.clone().requires_grad_()
    value = case.build()(target, source, **case.context())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and target.grad.abs().max() < 1e-5


@named(CASES)
def test_the_batch_size_leaves_the_value(case):
    loss, (target, source) = case.build(), case.sides()
    repeated = (x.repeat(3, *[1] * (x.dim() - 1)) for x in (target, source))
    torch.testing.assert_close(
        loss(*repeated, **case.context(repeat=3)), loss(target, source, **case.context())
    )


@named([case for case in CASES if case.resolution and len(case.shape) == 4])
def test_the_resolution_leaves_the_value(case):
    loss, (target, source) = case.build(), case.sides()
    larger = (F.interpolate(x, scale_factor=2) for x in (target, source))
    torch.testing.assert_close(
        loss(*larger, **case.context()), loss(target, source, **case.context())
    )


@named(CASES)
def test_half_precision_is_compared_in_float32(case):
    for dtype in (torch.bfloat16, torch.float16):
        loss, (target, source) = case.build(), case.sides()
        target, source = target.to(dtype).requires_grad_(), source.to(dtype)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            value = loss(target, source, **case.context())
        value.backward()
        assert value.dtype == torch.float32 and target.grad.isfinite().all()
        assert torch.equal(value, loss(target.float(), source.float(), **case.context()))


@named(MASKABLE)
def test_values_at_masked_positions_stay_out(case):
    loss, (target, source) = case.build(), case.sides()
    mask, half = torch.ones(len(target), 1, 8, 8), target.shape[-1] // 2
    torch.testing.assert_close(
        loss(target, source, mask=mask, **case.context()), loss(target, source, **case.context())
    )
    mask[..., 4:] = 0
    expected = loss(target, source, mask=mask, **case.context())
    target[..., half:], source[..., half:] = float('inf'), float('nan')
    target.requires_grad_()
    value = loss(target, source, mask=mask, **case.context())
    value.backward()
    torch.testing.assert_close(value, expected)
    assert target.grad.isfinite().all()
    assert target.grad[..., :half].any() and not target.grad[..., half:].any()


@named(MASKABLE)
def test_a_mask_over_everything_is_zero(case):
    target, source = case.sides()
    target.requires_grad_()
    mask = torch.zeros(len(target), 1, 8, 8)
    value = case.build()(target, source, mask=mask, **case.context())
    value.backward()
    assert value.item() == 0 and not target.grad.any()


@named([case for case in MASKABLE if case.resolution])
def test_a_mask_over_a_half_is_the_other_half_alone(case):
    loss, (target, source) = case.build(), case.sides()
    mask = torch.ones_like(target[:, :1])
    mask[..., 2:] = 0
    context = case.context()
    value = loss(target, source, mask=mask, **context)
    for sample in context.get('data_samples', ()):
        sample.gt_sem_seg = PixelData(data=sample.gt_sem_seg.data[..., :2])
    torch.testing.assert_close(value, loss(target[..., :2], source[..., :2], **context))


@named(CASES)
def test_dead_and_extreme_sides_are_finite_and_never_negative(case):
    for scales in [(0, 1), (1e-4, 0), (1e4, 1e4), (1, 0)]:
        target, source = (x * scale for x, scale in zip(case.sides(seed=1), scales))
        target.requires_grad_()
        value = case.build()(target, source, **case.context())
        value.backward()
        assert 0 <= value.item() < float('inf') and target.grad.isfinite().all(), scales


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('iou', ['iou', 'giou'])
@pytest.mark.parametrize('side', ['target', 'source', 'both'])
def test_inverted_and_degenerate_boxes_stay_in_bounds(seed, iou, side):
    target, source = dense(seed=seed), dense(seed=seed + 10)
    generator = torch.Generator().manual_seed(seed)
    for one, name in ((target, 'target'), (source, 'source')):
        if side in (name, 'both'):
            scale = 10 ** torch.randint(-3, 7, one.boxes.shape, generator=generator)
            one.boxes = torch.randn(one.boxes.shape, generator=generator) * scale
            one.boxes[0, 0, 2:] = one.boxes[0, 0, :2]  # no area
    target.boxes.requires_grad_()
    loss = DenseDetectionLoss(class_weight=0, objectness_weight=0, iou=iou)
    value = loss(target, source)
    value.backward()
    assert 0 <= value.item() <= 2 + 1e-5 and target.boxes.grad.isfinite().all()


def test_a_box_gains_nothing_by_being_inverted():
    """RTMDet's distances may be negative: inverted boxes were rewarded without bound."""
    source = dense(n=1, p=1)
    source.boxes = torch.tensor([[[10.0, 10.0, 30.0, 30.0]]])
    target = dense(n=1, p=1)
    boxes = torch.tensor([[[26.0, 40.0, 14.0, 18.0]]], requires_grad=True)
    loss = DenseDetectionLoss(class_weight=0, objectness_weight=0)
    optimizer = torch.optim.SGD([boxes], lr=50)
    for _ in range(15):
        target.boxes = boxes
        value = loss(target, source)
        assert value >= (0 if (boxes[..., 2:] > boxes[..., :2]).all() else 1)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


@pytest.mark.parametrize('explore', ['ft', 'cos', 'cka'])
@pytest.mark.parametrize('sign', [1, -1, 0])
def test_exploration_is_never_negative(explore, sign):
    source = torch.ones(2, 3, 4, 4)
    terms = InheritExploreLoss(explore=explore)(
        dict(inherit=-source, explore=sign * source), source
    )
    assert all(0 <= value < float('inf') for value in terms.values())
