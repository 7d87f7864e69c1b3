"""Forms of `DetectionLoss`; the values of the aligned ones are those of `DenseDetectionLoss`."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loss_cases import dense
from mmcv.ops import batched_nms
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

from mmkd.models.losses import DenseDetectionLoss, DetectionLoss
from mmkd.tasks.detection.queries import QueryPrediction
from mmkd.tasks.detection.structures import DensePrediction
from mmkd.tasks.detection.truth import truth_of
from mmkd.utils.errors import ConfigError

METAS = [dict(img_shape=(40, 60))] * 2


class Head:
    """A head whose loss is the number of boxes times its first output; it keeps what it got."""

    def __init__(self):
        self.truths = []

    def loss_by_feat(self, first, second, batch_gt_instances, batch_img_metas):
        assert len(first[0]) == len(batch_gt_instances) == len(batch_img_metas)
        self.truths.append(batch_gt_instances)
        boxes = sum(len(instances) for instances in batch_gt_instances)
        return dict(loss_cls=[first[0].sum() * boxes], loss_bbox=second.sum() * 0, accuracy=second)


def target_of(positions=3, classes=2):
    """A target on a grid of its own whose head's first output is 1 for each image."""
    first = torch.ones(2, 1, requires_grad=True)
    prediction = dense(p=positions, c=classes)
    return replace(prediction, head=Head(), outputs=([first], torch.zeros(2)))


def source_of(*rows, classes=2):
    """A source from the (image, x1, y1, x2, y2, score, label) of its boxes, the others unsure."""
    count = len(rows) + 1
    logits, boxes = torch.full((2, count, classes), -9.0), torch.zeros(2, count, 4)
    for place, (image, *box, score, label) in enumerate(rows):
        boxes[image, place] = torch.tensor(box, dtype=torch.float32)
        logits[image, place, label] = torch.tensor(score).logit()
    return DensePrediction(logits, None, boxes)


def run(loss, target, source, **context):
    return loss(target, source, **dict(dict(image_metas=METAS, target_network=object()), **context))


def gt(*rows):
    """Ground truth of both images, from the (image, x1, y1, x2, y2, label) of its boxes."""
    found = []
    for image in range(2):
        own = torch.tensor([row[1:] for row in rows if row[0] == image]).reshape(-1, 5)
        instances = InstanceData(bboxes=own[:, :4].float(), labels=own[:, 4].long())
        found.append(SimpleNamespace(gt_instances=instances))
    return found


# ---------------------------------------------------------------- which form


def test_dense_heads_of_one_grid_are_compared_position_by_position():
    target, source = dense(), dense(seed=1)
    target.cls_logits.requires_grad_()
    value = run(DetectionLoss(tau=2.0, iou='iou'), target, source)
    torch.testing.assert_close(value, DenseDetectionLoss(tau=2.0, iou='iou')(target, source))
    value.backward()
    assert target.cls_logits.grad.any()


def test_other_grids_learn_from_the_boxes_that_the_source_is_sure_of():
    target = target_of()
    source = source_of(
        (0, 1, 1, 30, 30, 0.8, 1),
        (0, 2, 1, 31, 30, 0.7, 1),  # overlaps the first
        (0, 2, 1, 31, 30, 0.6, 0),  # of another class
        (0, 5, 5, 9, 9, 0.2, 0),  # unsure
        (1, 50, 30, 80, 90, 0.4, 0),  # ends at the image's border
    )
    value = run(DetectionLoss(truth_weight=0.5), target, source)
    (first, second), *others = target.head.truths
    assert not others
    torch.testing.assert_close(first.bboxes, torch.tensor([[1.0, 1, 30, 30], [2, 1, 31, 30]]))
    assert first.labels.tolist() == [1, 0] and 'scores' not in first
    torch.testing.assert_close(second.bboxes, torch.tensor([[50.0, 30, 60, 40]]))
    # 3 boxes times 2 images' ones, times the mean score.
    torch.testing.assert_close(value, torch.tensor(0.5 * 6 * (0.8 + 0.6 + 0.4) / 3))
    value.backward()
    assert target.outputs[0][0].grad.all()


def test_images_without_a_sure_box_teach_nothing():
    target = target_of()
    value = run(DetectionLoss(), target, source_of((1, 1, 1, 30, 30, 0.5, 0)))
    assert len(target.head.truths[0]) == 1  # of the second image alone
    value.backward()
    assert target.outputs[0][0].grad.flatten().tolist() == [0, 0.5]


def test_where_nothing_is_sure_the_loss_is_computed_and_left_out():
    """Heads wait for the other ranks' sums in their losses."""
    target = target_of()
    value = run(DetectionLoss(score_thr=0.9), target, source_of((1, 1, 1, 30, 30, 0.5, 0)))
    assert value == 0 and [len(t) for t in target.head.truths] == [1]
    value.backward()
    assert not target.outputs[0][0].grad.any()


@pytest.mark.parametrize('nms_iou', [0.6, 1.0])
def test_several_sources_are_fused(nms_iou):
    target = target_of()
    sources = [source_of((0, 1, 1, 30, 30, s, 0), (1, 5, 5, 25, 25, s, 1)) for s in (0.5, 0.7)]
    value = run(DetectionLoss(nms_iou=nms_iou), target, sources)
    assert [t.labels.tolist() for t in target.head.truths[0]] == [[0], [1]]
    torch.testing.assert_close(value, torch.tensor(4 * 0.7))


def test_links_share_the_boxes_that_a_source_is_sure_of(monkeypatch):
    found = []
    monkeypatch.setattr(
        'mmkd.tasks.detection.truth.batched_nms',
        lambda *args: found.append(1) or batched_nms(*args),
    )
    source = source_of((0, 1, 1, 30, 30, 0.8, 1))
    values = [run(DetectionLoss(), target_of(), source) for _ in range(2)]
    assert values[0] == values[1] and len(found) == 1
    run(DetectionLoss(score_thr=0.2), target_of(), source)
    mapped = target_of()
    run(DetectionLoss(classes={1: 0, 0: 1}), mapped, source, data_samples=gt())
    assert len(found) == 3
    assert mapped.head.truths[0][0].labels.tolist() == [0]
    assert not run(DetectionLoss(), target_of(), source_of()).any()


def test_the_builds_probe_has_no_second_truth_and_refuses_a_head_that_takes_none():
    target, source = target_of(), source_of((0, 1, 1, 30, 30, 0.8, 1))
    assert run(DetectionLoss(), target, source, target_network=None) == 0
    assert not target.head.truths

    def loss_by_feat(first, second, batch_gt_instances, batch_img_metas, soft_targets):
        raise AssertionError

    target.head.loss_by_feat = loss_by_feat
    with pytest.raises(ConfigError, match='it asks for soft_targets.*What works: a source with'):
        run(DetectionLoss(), target, source, target_network=None)


# ---------------------------------------------------------------- masks


def maker(seed, size=4):
    """Mask logits by image, place and class, and the class alone in a corner."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(2, 6, 2, size, size, generator=generator)
    return lambda images, places, labels: table[images, places, labels]


def test_masks_are_compared_where_the_source_is_sure():
    target, source = dense(objectness=False), dense(objectness=False, seed=1)
    plain = run(DetectionLoss(score_thr=0.9), target, source)
    masked = replace(target, masks=maker(0)), replace(source, masks=maker(1))
    torch.testing.assert_close(
        run(DetectionLoss(), target, masked[1]), run(DetectionLoss(), target, source)
    )
    value = run(DetectionLoss(score_thr=0.9, mask_weight=0.5, max_per_img=2), *masked) - plain
    probability = source.cls_logits.sigmoid()
    expected, weight = 0.0, 0.0
    for image in range(2):
        for place in probability[image].amax(-1).argsort(descending=True)[:2]:
            score, label = probability[image, place].max(-1)
            if score < 0.9:
                continue
            m_t, m_s = (maker(seed)(image, place, label) for seed in (0, 1))
            p = m_s.sigmoid()
            kl = p * (p.log() - m_t.sigmoid().log())
            kl = kl + (1 - p) * ((1 - p).log() - (1 - m_t.sigmoid()).log())
            expected, weight = expected + score * kl.mean(), weight + score
    assert weight > 0
    torch.testing.assert_close(value, 0.5 * expected / weight, rtol=1e-4, atol=1e-5)
    nowhere = run(DetectionLoss(score_thr=1.0), *masked)
    torch.testing.assert_close(nowhere, plain)
    # Of another resolution.
    other = replace(source, masks=maker(1, size=8))
    assert run(DetectionLoss(), masked[0], other).isfinite()


def test_masks_of_the_source_are_part_of_the_truth_where_both_have_some():
    drawn = []

    def masks(images, places, labels):
        drawn.append((images.tolist(), labels.tolist()))
        return torch.where(torch.arange(10) < 5, 1.0, -1.0).expand(len(images), 10, 10)

    target = target_of(positions=5)
    source = source_of((1, 1, 1, 30, 30, 0.8, 1), (1, 20, 5, 50, 30, 0.7, 0))
    source = replace(source, masks=masks, mask_stride=5.0)
    run(DetectionLoss(), target, source)
    assert not drawn and 'masks' not in target.head.truths[0][0]
    target = replace(target, masks=maker(0))
    source.truths.clear()
    run(DetectionLoss(), target, source)
    assert drawn == [([], []), ([1, 1], [1, 0])]
    (truth,) = target.head.truths[-1]
    expected = torch.zeros(40, 60)
    expected[:, :25] = 1
    assert (truth.masks.to_ndarray() == expected.numpy()).all() and len(truth.masks) == 2
    # With the ground truth of classes that the source does not have.
    wider = replace(target_of(positions=5, classes=3), masks=maker(0))
    true = gt((1, 2, 2, 9, 9, 2))
    for sample in true:
        shape = (len(sample.gt_instances), 30, 60)  # not padded yet
        sample.gt_instances.masks = BitmapMasks(np.ones(shape, np.uint8), *shape[1:])
    run(DetectionLoss(classes={1: 1}), wider, source, data_samples=true)
    (truth,) = wider.head.truths[-1]
    assert truth.labels.tolist() == [1, 2]
    assert (truth.masks.to_ndarray()[0] == expected.numpy()).all()
    assert truth.masks.to_ndarray()[1].sum() == 30 * 60
    del drawn[2:]
    # Beside one without masks they cannot be fused.
    run(DetectionLoss(), target, [source, source_of((1, 1, 1, 30, 30, 0.8, 1))])
    assert len(drawn) == 2


# ---------------------------------------------------------------- queries


def queries(n=2, q=5, c=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    boxes = 0.2 + 0.3 * torch.rand(n, q, 4, generator=generator)
    return QueryPrediction(3 * torch.randn(n, q, c, generator=generator), boxes)


def test_queries_are_paired_whatever_their_order():
    target = queries()
    order = torch.tensor([[3, 0, 4, 2, 1], [1, 2, 0, 4, 3]])
    source = QueryPrediction(
        target.cls_logits.gather(1, order[..., None].expand(-1, -1, 2)),
        target.boxes.gather(1, order[..., None].expand(-1, -1, 4)),
    )
    assert run(DetectionLoss(), target, source).item() == pytest.approx(0, abs=1e-6)
    assert run(DetectionLoss(), target, queries(seed=1)) > 0.1


def test_queries_that_are_left_over_learn_nothing():
    target, source = queries(q=5), queries(q=3, seed=1)
    target.cls_logits.requires_grad_()
    target.boxes.requires_grad_()
    run(DetectionLoss(), target, source).backward()
    for gradient in (target.cls_logits.grad, target.boxes.grad):
        assert gradient.abs().sum(-1).gt(0).sum(1).tolist() == [3, 3]


def test_queries_have_no_weights_before_they_are_paired():
    assert DetectionLoss().summed_weights(queries(), None) == []


def test_boxes_of_queries_are_shares_of_each_images_own_size():
    source = QueryPrediction(
        torch.full((2, 1, 1), 3.0), torch.tensor([0.5, 0.5, 0.2, 0.4]).repeat(2, 1, 1)
    )
    metas = [dict(img_shape=(100, 200)), dict(img_shape=(50, 40))]
    one, other = truth_of(source, metas, score_thr=0.5, nms_iou=0.5, max_per_img=5)
    torch.testing.assert_close(one.bboxes, torch.tensor([[80.0, 30, 120, 70]]))
    torch.testing.assert_close(other.bboxes, torch.tensor([[16.0, 15, 24, 35]]))


# ---------------------------------------------------------------- classes in common


def test_positions_of_members_with_some_classes_in_common():
    target, source = dense(c=3, objectness=False), dense(c=4, objectness=False, seed=1)
    value = run(DetectionLoss(classes={3: 0, 1: 2}), target, source)
    own = replace(target, cls_logits=target.cls_logits[..., [0, 2]])
    theirs = replace(source, cls_logits=source.cls_logits[..., [3, 1]])
    torch.testing.assert_close(value, DenseDetectionLoss()(own, theirs))
    # Where the source has an objectness, it is of other classes' objects, too.
    with_objects = replace(source, obj_logits=torch.full((2, 6), 30.0))
    torch.testing.assert_close(
        run(DetectionLoss(classes={3: 0, 1: 2}), target, with_objects), value
    )


def test_boxes_of_classes_in_common_join_the_ground_truth_of_the_others():
    target = target_of(positions=5, classes=3)
    source = source_of((0, 1, 1, 30, 30, 0.8, 3), (0, 5, 5, 9, 9, 0.7, 0), classes=4)
    truth = gt((0, 2, 2, 20, 20, 0), (0, 3, 3, 30, 30, 1), (1, 4, 4, 9, 9, 2))
    run(DetectionLoss(classes={3: 0, 1: 2}), target, source, data_samples=truth)
    (first,) = target.head.truths[0]  # class 1 of the target is not the source's
    assert first.labels.tolist() == [0, 1]
    assert first.bboxes.tolist() == [[1, 1, 30, 30], [3, 3, 30, 30]]
    with pytest.raises(ConfigError, match="classes: .*must act on='labeled'"):
        run(DetectionLoss(classes={3: 0, 1: 2}), target, source)


@pytest.mark.parametrize(
    'classes, message',
    [
        (None, 'predictions differ in classes: .*what works: .*classes='),
        ({4: 0}, 'classes: 4 is none of the 4 of the source'),
        ({0: 3}, 'classes: 3 is none of the 3 of the target'),
        ({}, "classes: expected {source's index: target's index}, got {}"),
        ({0: 'polyp'}, 'classes: expected'),
        ({0: 1, 2: 1}, 'classes: two classes of the source are one of the target'),
    ],
)
def test_classes_that_do_not_fit_are_refused(classes, message):
    with pytest.raises(ConfigError, match=message):
        run(DetectionLoss(classes=classes), dense(c=3), dense(c=4))


@pytest.mark.parametrize(
    'arguments',
    [
        dict(score_thr=1.5),
        dict(nms_iou='a'),
        dict(max_per_img=0),
        dict(truth_weight=-1),
        dict(mask_weight='a'),
        dict(queries='hungarian'),
    ],
)
def test_wrong_arguments(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        DetectionLoss(**arguments)
