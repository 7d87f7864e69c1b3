import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special

from mmkd.models.losses import DenseDetectionLoss
from mmkd.registry import MODELS
from mmkd.tasks.detection.structures import DensePrediction

HEADS = [(True, True), (False, False), (True, False), (False, True)]  # objectness of target, source


def overlap(a, b, kind):
    """IoU or GIoU of two boxes."""

    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    inner = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area(a) + area(b) - inner
    if kind == 'iou':
        return inner / union
    outer = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    return inner / union - (outer - union) / outer


def divergence(target, source):
    """KL(source || target) of two Bernoulli distributions, by their probabilities (of 1, of 0)."""
    return sum(special.rel_entr(s, t) for s, t in zip(source, target))


def bernoulli(logit, tau=1.0):
    return special.expit(logit / tau), special.expit(-logit / tau)


def joint(class_logit, obj_logit):
    p, q = bernoulli(class_logit)
    if obj_logit is None:
        return p, q
    a, b = bernoulli(obj_logit)
    return p * a, q + p * b


def reference(
    target,
    source,
    tau=1.0,
    class_weight=1.0,
    objectness_weight=1.0,
    box_weight=1.0,
    background_weight=1.0,
    iou='giou',
):
    """The loss in float64, position by position; sides are (classes, objectness or None, boxes)."""
    (t_cls, t_obj, t_box), (s_cls, s_obj, s_box) = target, source
    n, p, c = s_cls.shape
    weights, classes, objectness, boxes = [], [], [], []
    for i, j in np.ndindex(n, p):
        t_o, s_o = (None if o is None else o[i, j] for o in (t_obj, s_obj))
        weights.append(max(special.expit(s_cls[i, j])) * (1 if s_o is None else special.expit(s_o)))
        if (t_o is None) == (s_o is None):
            classes.append(
                tau**2
                * sum(
                    divergence(bernoulli(t_cls[i, j, k], tau), bernoulli(s_cls[i, j, k], tau))
                    for k in range(c)
                )
            )
            objectness.append(
                0 if t_o is None else tau**2 * divergence(bernoulli(t_o, tau), bernoulli(s_o, tau))
            )
        else:
            classes.append(
                sum(
                    divergence(joint(t_cls[i, j, k], t_o), joint(s_cls[i, j, k], s_o))
                    for k in range(c)
                )
            )
            objectness.append(0)
        usable = all(abs(v) < 1e6 for v in (*t_box[i, j], *s_box[i, j]))
        boxes.append(1 - overlap(t_box[i, j], s_box[i, j], iou) if usable else 0)
    total = sum(weights)
    mean = [
        sum(w * k for w, k in zip(weights, values)) / total if total else 0
        for values in (classes, objectness, boxes)
    ]
    return (
        class_weight * (mean[0] + background_weight * np.mean(classes))
        + objectness_weight * (mean[1] + background_weight * np.mean(objectness))
        + box_weight * mean[2]
    )


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


def prediction(n=2, p=5, c=2, objectness=True, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, p, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 4 + 10 * torch.rand(n, p, 2, generator=generator)], -1)
    cls_logits, obj_logits = (
        3 * torch.randn(n, p, c, generator=generator),
        3 * torch.randn(n, p, generator=generator),
    )
    return DensePrediction(
        *(
            None if x is None else x.requires_grad_(grad)
            for x in (cls_logits, obj_logits if objectness else None, boxes)
        )
    )


def parts(dense):
    return [
        None if x is None else x.detach().double().numpy()
        for x in (dense.cls_logits, dense.obj_logits, dense.boxes)
    ]


def change(dense, function):
    return DensePrediction(
        *(
            None if x is None else function(x)
            for x in (dense.cls_logits, dense.obj_logits, dense.boxes)
        )
    )


@pytest.mark.parametrize('heads', HEADS)
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(tau=3.0, iou='iou'),
        dict(tau=0.5, class_weight=0.0, box_weight=0.25),
        dict(objectness_weight=2.5, background_weight=0.0),
        dict(class_weight=2.0, objectness_weight=0.0, box_weight=0.0, background_weight=3.0),
    ],
)
def test_value_and_gradient_are_the_references(heads, options):
    target, source = (
        prediction(objectness=heads[0], grad=True),
        prediction(objectness=heads[1], seed=1),
    )
    value = MODELS.build(dict(type='mmkd.DenseDetectionLoss', **options))(target, source)
    value.backward()
    assert value.shape == () and value.dtype == torch.float32
    sides = parts(target), parts(source)
    np.testing.assert_allclose(value.item(), reference(*sides, **options), rtol=1e-5)
    for index, x in enumerate((target.cls_logits, target.obj_logits, target.boxes)):
        if x is None:
            continue
        expected = numerical_gradient(
            lambda moved, index=index: reference(
                [*sides[0][:index], moved, *sides[0][index + 1 :]], sides[1], **options
            ),
            sides[0][index],
        )
        actual = np.zeros(x.shape) if x.grad is None else x.grad.numpy()
        np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=1e-6)


def test_value_by_hand():
    """Two positions; the source sees nothing at the second, where the target agrees."""
    source = DensePrediction(
        torch.tensor([[[0.0], [-1e4]]]),
        None,
        torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]]]),
    )
    target = DensePrediction(
        torch.tensor([[[-math.log(3)], [-1e4]]]),
        None,
        torch.tensor([[[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 9.0, 9.0]]]),
    )
    k = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    boxes = 1 - 2 / 6  # 2 of 6 pixels in common, which fill the enclosing box
    assert DenseDetectionLoss()(target, source).item() == pytest.approx(k + k / 2 + boxes, rel=1e-5)
    assert DenseDetectionLoss(background_weight=0)(target, source).item() == pytest.approx(
        k + boxes, rel=1e-5
    )
    apart = replace(target, boxes=torch.tensor([[[4.0, 0.0, 6.0, 2.0], [5.0, 5.0, 9.0, 9.0]]]))
    for iou, boxes in (('iou', 1), ('giou', 1 + 4 / 12)):
        assert DenseDetectionLoss(iou=iou, class_weight=0)(apart, source).item() == pytest.approx(
            boxes, rel=1e-5
        )


@pytest.mark.parametrize('objectness', [True, False])
def test_zero_for_equal_sides(objectness):
    target = prediction(objectness=objectness, grad=True)
    value = DenseDetectionLoss(tau=2.0)(target, prediction(objectness=objectness))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert target.cls_logits.grad.abs().max() < 1e-6


def test_heads_that_say_the_same_with_and_without_objectness_are_at_no_distance():
    source = prediction(objectness=True)
    p = source.cls_logits.double().sigmoid() * source.obj_logits.double().sigmoid().unsqueeze(-1)
    target = DensePrediction(p.logit().float(), None, source.boxes)
    assert DenseDetectionLoss()(target, source).item() == pytest.approx(0, abs=1e-5)
    assert DenseDetectionLoss()(source, target).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize('heads', HEADS)
def test_batch_size_and_resolution_leave_the_value(heads):
    target, source = (
        prediction(p=12, objectness=heads[0]),
        prediction(p=12, objectness=heads[1], seed=1),
    )
    loss = DenseDetectionLoss(tau=2.0)
    value = loss(target, source)
    assert value > 0.1

    def upsample(x):
        """The 12 positions as a 3x4 map, each of them then four."""
        maps = x.reshape(*x.shape[:2], -1).transpose(1, 2).unflatten(2, (3, 4))
        return (
            F.interpolate(maps, scale_factor=2)
            .flatten(2)
            .transpose(1, 2)
            .reshape(x.shape[0], 48, *x.shape[2:])
        )

    for function in (lambda x: torch.cat([x] * 3), upsample):
        torch.testing.assert_close(loss(change(target, function), change(source, function)), value)


@pytest.mark.parametrize('heads', HEADS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_predictions_are_compared_in_float32(heads, dtype):
    target, source = prediction(objectness=heads[0]), prediction(objectness=heads[1], seed=1)
    loss = DenseDetectionLoss(tau=2.0)
    full = loss(target, source)
    target = change(target, lambda x: x.to(dtype).requires_grad_())
    source = change(source, lambda x: x.to(dtype))
    value = loss(target, source)
    value.backward()
    exact = loss(change(target, lambda x: x.float()), change(source, lambda x: x.float()))
    assert value.dtype == torch.float32 and torch.equal(value, exact)
    assert value.item() == pytest.approx(full.item(), rel=0.05)
    for x in (target.cls_logits, target.boxes):
        assert x.grad.dtype == dtype and x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize('heads', HEADS)
def test_autocast_leaves_the_loss_in_float32(heads):
    target, source = prediction(objectness=heads[0]), prediction(objectness=heads[1], seed=1)
    weight = torch.eye(2, requires_grad=True)
    loss = DenseDetectionLoss(tau=2.0)
    full = loss(target, source)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(loss(target, source), full)
        half = replace(target, cls_logits=target.cls_logits @ weight)
        assert half.cls_logits.dtype == torch.bfloat16
        value = loss(half, source)
    value.backward()
    assert value.dtype == torch.float32 and value.item() == pytest.approx(full.item(), rel=0.05)
    assert weight.grad.isfinite().all() and weight.grad.any()


@pytest.mark.parametrize('heads', HEADS)
@pytest.mark.parametrize('signs', [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_extreme_logits(heads, signs):
    target, source = prediction(objectness=heads[0]), prediction(objectness=heads[1], seed=1)
    target = replace(
        change(target, lambda x: torch.full_like(x, 1e4 * signs[0]).requires_grad_()),
        boxes=target.boxes,
    )
    source = replace(
        change(source, lambda x: torch.full_like(x, 1e4 * signs[1])), boxes=source.boxes
    )
    target.boxes.requires_grad_()
    value = DenseDetectionLoss(tau=2.0, box_weight=0.5)(target, source)
    value.backward()
    assert value.isfinite() and value >= 0
    for x in (target.cls_logits, target.obj_logits, target.boxes):
        assert x is None or x.grad.isfinite().all()
    if heads == (True, True) and signs[0] != signs[1]:
        # 2 classes and objectness, 1e4 nats times tau each; weighted mean (0 where the source sees
        # nothing) and plain mean
        assert value.item() == pytest.approx(3 * 2e4 * (2 if signs[1] > 0 else 1), rel=1e-3)


@pytest.mark.parametrize('heads', HEADS)
@pytest.mark.parametrize('wrong', [float('nan'), float('inf'), -float('inf'), 1e20])
@pytest.mark.parametrize('side', ['target', 'source'])
def test_boxes_that_are_not_finite_are_left_out_without_a_gradient(heads, wrong, side):
    target, source = prediction(objectness=heads[0]), prediction(objectness=heads[1], seed=1)
    loss = DenseDetectionLoss()

    def with_boxes(values):
        sides = dict(target=target, source=source)
        boxes = sides[side].boxes.clone()
        boxes[0, 1, 2], boxes[1, 3] = values, values
        sides[side] = replace(sides[side], boxes=boxes)
        sides['target'] = replace(
            sides['target'], boxes=sides['target'].boxes.clone().requires_grad_()
        )
        return sides['target'], sides['source']

    broken = with_boxes(wrong)
    value = loss(*broken)
    value.backward()
    np.testing.assert_allclose(value.item(), reference(*map(parts, broken)), rtol=1e-5)
    gradient = broken[0].boxes.grad
    assert gradient.isfinite().all()
    usable = torch.ones(2, 5, dtype=torch.bool)
    usable[0, 1] = usable[1, 3] = False
    assert torch.equal(gradient.any(-1), usable)
    whole = replace(target, boxes=target.boxes.clone().requires_grad_())
    loss(whole, source).backward()
    torch.testing.assert_close(gradient[usable], whole.boxes.grad[usable])


@pytest.mark.parametrize('heads', HEADS)
def test_a_source_that_sees_nothing_pushes_all_scores_down(heads):
    target, source = (
        prediction(objectness=heads[0], grad=True),
        prediction(objectness=heads[1], seed=1),
    )
    source = replace(change(source, lambda x: torch.full_like(x, -1e4)), boxes=source.boxes)
    value = DenseDetectionLoss(background_weight=0.5)(target, source)
    value.backward()
    np.testing.assert_allclose(
        value.item(), reference(parts(target), parts(source), background_weight=0.5), rtol=1e-5
    )
    assert value > 0 and (target.cls_logits.grad > 0).all() and not target.boxes.grad.any()
    assert DenseDetectionLoss(background_weight=0)(target, source).item() == 0


@pytest.mark.parametrize('heads', HEADS)
def test_faint_scores_still_weight_the_positions(heads):
    """Early in training all scores are near 0.01: the weights are relative."""
    target, source = prediction(objectness=heads[0]), prediction(objectness=heads[1], seed=1)
    source = replace(source, cls_logits=source.cls_logits - 15)
    np.testing.assert_allclose(
        DenseDetectionLoss()(target, source).item(),
        reference(parts(target), parts(source)),
        rtol=1e-4,
    )


def test_scores_of_a_prediction():
    logits, objectness = (
        torch.tensor([[[0.0, math.log(3)], [-2.0, -50.0]]]),
        torch.tensor([[0.0, 50.0]]),
    )
    boxes = torch.zeros(1, 2, 4)
    expected = torch.tensor([[0.75, 1 / (1 + math.exp(2))]])
    torch.testing.assert_close(DensePrediction(logits, None, boxes).scores, expected)
    torch.testing.assert_close(
        DensePrediction(logits, objectness, boxes).scores, expected * torch.tensor([0.5, 1])
    )
    assert (
        str(DensePrediction(logits, None, boxes))
        == '(images 1, positions 2, classes 2, objectness no)'
    )
    detached = prediction(grad=True).detach()
    assert not any(
        x.requires_grad for x in (detached.cls_logits, detached.obj_logits, detached.boxes)
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(tau=0), 'tau: expected a positive number, got 0'),
        (dict(tau=float('nan')), 'tau: '),
        (dict(iou='ciou'), "iou: unknown name 'ciou'; did you mean '"),
        (dict(iou='x'), "iou: unknown name 'x'; valid: iou, giou"),
        *(
            (dict([(name, value)]), f'{name}: expected a number .*got {value}')
            for name in ('class_weight', 'objectness_weight', 'box_weight', 'background_weight')
            for value in (-1.0, float('nan'), float('inf'))
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DenseDetectionLoss(**arguments)


@pytest.mark.parametrize('shape', [dict(p=4), dict(c=1), dict(n=1), dict(p=1)])
def test_predictions_that_differ_are_refused_not_broadcast(shape):
    with pytest.raises(
        ValueError,
        match=r'differ in positions or classes: target \(images 2, positions 5, classes 2',
    ):
        DenseDetectionLoss()(prediction(), prediction(**shape))


def test_an_overflowing_yolox_box_has_a_finite_gradient(toolkit):
    from mmkd.tasks.detection.readers import read_yolox

    head = (
        toolkit.make_distiller(members=dict(student1=toolkit.yolox(seed=1)))
        .network('student1')
        .bbox_head
    )
    maps = [
        [torch.zeros(1, channels, 8 // 2**i, 8 // 2**i) for i in range(3)] for channels in (1, 4, 1)
    ]
    maps[1][0][0, 2, 0, 0] = 100.0
    raw = maps[1][0].requires_grad_()
    target = read_yolox(head, maps)
    source = read_yolox(head, [[torch.zeros_like(m) for m in part] for part in maps])
    value = DenseDetectionLoss()(target, source)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(raw.grad).all()


def test_a_saturated_joint_score_still_has_a_gradient():
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]])
    logit = torch.full((1, 1, 1), 50.0, requires_grad=True)
    target = DensePrediction(logit, torch.full((1, 1), 50.0), boxes)
    source = DensePrediction(torch.full((1, 1, 1), -50.0), None, boxes)
    value = DenseDetectionLoss(box_weight=0.0)(target, source)
    value.backward()
    assert value > 49 and logit.grad.item() > 0.1
