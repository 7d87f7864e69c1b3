import warnings

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmkd.models.ensembles import DetectionEnsemble
from mmkd.registry import MODELS

SIZE = (100, 200)  # height and width
FUSIONS = ['wbf', 'nms']


def boxes_of(*rows, dtype=torch.float32, device='cpu'):
    """One member's predictions from rows (x1, y1, x2, y2, score, label)."""
    rows = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return InstanceData(
        bboxes=rows[:, :4].to(device, dtype),
        scores=rows[:, 4].to(device, dtype),
        labels=rows[:, 5].long().to(device),
    )


def rows_of(instances):
    return torch.cat(
        [
            instances.bboxes.double(),
            instances.scores[:, None].double(),
            instances.labels[:, None].double(),
        ],
        1,
    )


def check(instances, *expected, tolerance=1e-4):
    np.testing.assert_allclose(
        rows_of(instances).numpy(), np.array(expected, dtype=float).reshape(-1, 6), atol=tolerance
    )


A, B = (110, 10, 150, 50, 0.6, 0), (114, 10, 154, 50, 0.9, 0)  # IoU 36 / 44
MEAN = ((0.6 * 110 + 0.9 * 114) / 1.5, 10, (0.6 * 150 + 0.9 * 154) / 1.5, 50)
FAR = (20, 60, 40, 90, 0.5, 0)


@pytest.mark.parametrize('conf_type, scores', [('max', (0.9, 0.5)), ('avg', (0.75, 0.25))])
def test_wbf_weights_the_coordinates_by_the_scores(conf_type, scores):
    """By 'avg', a box that one of two members saw keeps half its score."""
    ensemble = MODELS.build(dict(type='mmkd.DetectionEnsemble', fusion='wbf', conf_type=conf_type))
    fused = ensemble([boxes_of(FAR, A), boxes_of(B)], SIZE)
    check(fused, (*MEAN, scores[0], 0), (*FAR[:4], scores[1], 0))
    check(
        ensemble([boxes_of(B), boxes_of(A, FAR)], SIZE),
        (*MEAN, scores[0], 0),
        (*FAR[:4], scores[1], 0),
    )


def test_wbf_of_three_members():
    c = (112, 12, 152, 52, 0.3, 0)
    fused = DetectionEnsemble(conf_type='avg')([boxes_of(A), boxes_of(B), boxes_of(c, FAR)], SIZE)
    mean = [(0.6 * a + 0.9 * b + 0.3 * d) / 1.8 for a, b, d in zip(A[:4], B[:4], c[:4])]
    check(fused, (*mean, 0.6, 0), (*FAR[:4], 0.5 / 3, 0))


def test_nms_keeps_the_best_box_as_it_is():
    fused = MODELS.build(dict(type='mmkd.DetectionEnsemble', fusion='nms'))(
        [boxes_of(FAR, A), boxes_of(B)], SIZE
    )
    check(fused, B, FAR)


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('iou_thr, count', [(0.8, 1), (0.83, 2)])
def test_boxes_are_fused_above_the_threshold(fusion, iou_thr, count):
    assert (
        len(DetectionEnsemble(fusion, iou_thr=iou_thr)([boxes_of(A), boxes_of(B)], SIZE)) == count
    )


@pytest.mark.parametrize('fusion', FUSIONS)
def test_one_members_separate_boxes_pass_through_best_first(fusion):
    low = (60, 5, 70, 15, 0.2, 3)
    check(DetectionEnsemble(fusion)([boxes_of(low, FAR, B)], SIZE), B, FAR, low)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_labels_are_fused_apart(fusion):
    first, second = (*A[:4], 0.6, 2), (*A[:4], 0.8, 7)
    fused = DetectionEnsemble(fusion)([boxes_of(first), boxes_of(second)], SIZE)
    check(fused, second, first)
    assert fused.labels.tolist() == [7, 2]


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize(
    'predictions',
    [
        [boxes_of()],
        [boxes_of(), boxes_of()],
        [boxes_of((0, 0, 50, 50, 0.0005, 0)), boxes_of()],
        [boxes_of((5, 5, 5, 50, 0.9, 0)), boxes_of()],
    ],
)
def test_nothing_predicted(fusion, predictions):
    fused = DetectionEnsemble(fusion)(predictions, SIZE)
    assert fused.bboxes.shape == (0, 4) and fused.scores.shape == fused.labels.shape == (0,)
    assert (
        fused.bboxes.dtype == fused.scores.dtype == torch.float32
        and fused.labels.dtype == torch.long
    )


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('order', [1, -1])
def test_one_member_without_boxes(fusion, order):
    check(DetectionEnsemble(fusion)([boxes_of(B, FAR), boxes_of()][::order], SIZE), B, FAR)


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize(
    'broken',
    [
        (30, 10, 30, 50),
        (30, 10, 60, 10),
        (60, 10, 30, 50),
        (30, 50, 60, 10),
        (30, 30, 30, 30),
        (210, 10, 240, 50),
        (30, 100, 60, 120),
        (-20, 10, -5, 50),
        (float('nan'), 10, 60, 50),
        (30, 10, 60, float('nan')),
    ],
)
def test_degenerate_boxes_are_dropped_silently(fusion, broken, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fused = DetectionEnsemble(fusion)([boxes_of((*broken, 0.99, 0), FAR), boxes_of(B)], SIZE)
    check(fused, B, FAR)
    assert not capsys.readouterr().out


@pytest.mark.parametrize('fusion', FUSIONS)
def test_boxes_end_at_the_image(fusion):
    fused = DetectionEnsemble(fusion)(
        [boxes_of((-10, 60, 50, 130, 0.7, 0), (150, -5, 220, 40, 0.4, 0))], SIZE
    )
    check(fused, (0, 60, 50, 100, 0.7, 0), (150, 0, 200, 40, 0.4, 0))


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('max_per_img', [1, 2, 3, 10])
def test_the_best_boxes_are_kept(fusion, max_per_img):
    rows = [(40 * i, 10, 40 * i + 30, 90, score, 0) for i, score in enumerate((0.3, 0.9, 0.1, 0.7))]
    fused = DetectionEnsemble(fusion, max_per_img=max_per_img)(
        [boxes_of(*rows[:2]), boxes_of(*rows[2:])], SIZE
    )
    check(fused, *sorted(rows, key=lambda row: -row[4])[:max_per_img])


@pytest.mark.parametrize('fusion', FUSIONS)
def test_low_scores_are_left_out_before_the_fusion(fusion):
    fused = DetectionEnsemble(fusion, score_thr=0.65)([boxes_of(A), boxes_of(B)], SIZE)
    check(fused, B)


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    'device',
    [
        'cpu',
        pytest.param(
            'cuda',
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU'),
            ],
        ),
    ],
)
def test_dtype_and_device_are_kept(fusion, dtype, device):
    ensemble = DetectionEnsemble(fusion)
    for rows in ([A, FAR], []):
        inputs = [
            boxes_of(*rows, dtype=dtype, device=device),
            boxes_of(*rows[:1], dtype=dtype, device=device),
        ]
        fused = ensemble(inputs, SIZE)
        assert (
            fused.bboxes.dtype == fused.scores.dtype == dtype and fused.labels.dtype == torch.long
        )
        assert {x.device.type for x in (fused.bboxes, fused.scores, fused.labels)} == {device}
        assert len(fused) == len(rows)
        check(fused.cpu(), *rows, tolerance=0.2 if dtype == torch.float16 else 1e-4)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_the_inputs_stay_as_they_are_and_need_no_gradient(fusion):
    predictions = [boxes_of((-10, 60, 50, 130, 0.7, 0), A), boxes_of(B)]
    predictions[0].bboxes.requires_grad_()
    before = [rows_of(p).clone() for p in predictions]
    fused = DetectionEnsemble(fusion)(predictions, SIZE)
    assert not fused.bboxes.requires_grad
    assert all(torch.equal(rows_of(p), b) for p, b in zip(predictions, before))


@pytest.mark.parametrize('fusion', FUSIONS)
def test_fused_samples_keep_ground_truth_and_metainfo(fusion):
    from mmdet.structures import DetDataSample

    samples = []
    for rows in ([A, FAR], [B]):
        sample = DetDataSample(
            metainfo=dict(
                img_id=7,
                img_path='x.jpg',
                ori_shape=(*SIZE, 3),
                img_shape=(64, 64),
                scale_factor=(0.32, 0.64),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[1.0, 2.0, 3.0, 4.0]]), labels=torch.tensor([0])
        )
        sample.pred_instances = boxes_of(*rows)
        samples.append(sample)
    ensemble = DetectionEnsemble(fusion)
    fused = ensemble.fuse_samples(samples)
    check(fused.pred_instances, *((B, FAR) if fusion == 'nms' else ((*MEAN, 0.9, 0), FAR)))
    assert type(fused) is DetDataSample and fused.metainfo == samples[0].metainfo
    assert torch.equal(fused.gt_instances.bboxes, samples[0].gt_instances.bboxes)
    check(samples[0].pred_instances, A, FAR)
    check(samples[1].pred_instances, B)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(fusion='x'), "model.ensemble.fusion: unknown name 'x'; valid: wbf, nms"),
        (dict(fusion='wfb'), "did you mean 'wbf'"),
        (dict(conf_type='mean'), "model.ensemble.conf_type: unknown name 'mean'"),
        (dict(iou_thr=1), r'iou_thr: expected a value in \[0, 1\), got 1'),
        (dict(iou_thr=-0.1), 'iou_thr: '),
        (dict(iou_thr=float('nan')), 'iou_thr: '),
        (dict(score_thr=1.0), r'score_thr: expected a value in \[0, 1\), got 1.0'),
        (dict(score_thr=-1e-3), 'score_thr: '),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DetectionEnsemble(**arguments)


def test_bfloat16_scores_and_all_boxes():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    one = InstanceData(
        bboxes=boxes,
        scores=torch.tensor([0.9, 0.5], dtype=torch.bfloat16),
        labels=torch.zeros(2, dtype=torch.long),
    )
    fused = DetectionEnsemble(max_per_img=-1)([one, one], (64, 64))
    assert len(fused.bboxes) == 2


@pytest.mark.parametrize('value', [0, -2, 2.5, '3'])
def test_wrong_max_per_img(value):
    with pytest.raises(ValueError, match='max_per_img'):
        DetectionEnsemble(max_per_img=value)
