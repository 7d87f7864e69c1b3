import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmkd.models.ensembles import DetectionEnsemble
from mmkd.registry import MODELS

SIZE = (100, 200)  # height and width of the image
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


@pytest.mark.parametrize(
    'conf_type, scores',
    [
        ('max', (0.9, 0.5)),
        ('avg', (0.75, 0.25)),
        ('box_and_model_avg', (0.75, 0.25)),
        ('absent_model_aware_avg', (0.75, 0.25)),
    ],
)
def test_wbf_weights_the_coordinates_by_the_scores(conf_type, scores):
    """By 'avg', a box that one of two members saw keeps half its score."""
    ensemble = MODELS.build(dict(type='mmkd.DetectionEnsemble', fusion='wbf', conf_type=conf_type))
    fused = ensemble([boxes_of(FAR, A), boxes_of(B)])
    check(fused, (*MEAN, scores[0], 0), (*FAR[:4], scores[1], 0))
    check(
        ensemble([boxes_of(B), boxes_of(A, FAR)]),
        (*MEAN, scores[0], 0),
        (*FAR[:4], scores[1], 0),
    )


def test_a_heavier_member_moves_the_box_and_its_scores_count_more():
    fused = DetectionEnsemble(weights=[3, 1])([boxes_of(A), boxes_of(B, FAR)])
    mean = [(1.8 * a + 0.9 * b) / 2.7 for a, b in zip(A[:4], B[:4])]
    check(fused, (*mean, 0.6, 0), (*FAR[:4], 0.5 / 3, 0))
    kept = DetectionEnsemble(weights=[3, 1], fusion='nms')([boxes_of(A), boxes_of(B, FAR)])
    check(kept, A, (*FAR[:4], 0.5 / 3, 0))


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('conf_type', ['max', 'avg', 'box_and_model_avg'])
def test_a_member_of_weight_0_is_left_out(fusion, conf_type):
    ensemble = DetectionEnsemble(weights=[1, 0, 2], fusion=fusion, conf_type=conf_type)
    alone = DetectionEnsemble(weights=[1, 2], fusion=fusion, conf_type=conf_type)
    found = ensemble([boxes_of(A), boxes_of(FAR), boxes_of(B)])
    check(found, *rows_of(alone([boxes_of(A), boxes_of(B)])))
    assert len(ensemble([boxes_of(), boxes_of(FAR), boxes_of()])) == 0


def test_scores_are_calibrated_before_they_are_fused():
    """(slope, offset) of the log-odds: 0.6 becomes 2 logit(0.6) - 1."""
    ensemble = DetectionEnsemble(calibration=[(2.0, -1.0), (1.0, 0.0)], fusion='nms')
    given = boxes_of(A)
    odds = (0.6 / 0.4) ** 2 / np.e
    check(ensemble([given, boxes_of(FAR)]), (*FAR[:5], 0), (*A[:4], odds / (1 + odds), 0))
    check(given, A)


@pytest.mark.parametrize(
    'option, value, message',
    [
        ('weights', dict(b=1), "model.ensemble.weights: unknown name 'b'; "),
        ('weights', [1], r"model.ensemble.weights: expected a value for each of \['student1', "),
        ('weights', dict(student1=-1), 'model.ensemble.weights: expected a number >= 0'),
        ('weights', [0, 0], 'model.ensemble.weights: all are 0'),
        ('calibration', dict(student2=2), r'calibration: expected \(slope, offset\), got 2'),
        ('calibration', dict(student1=(-1, 0)), 'slope: expected a number >= 0'),
    ],
)
def test_options_of_members_are_given_by_name_and_checked(toolkit, option, value, message):
    from mmkd.tasks.detection import DetectionTask
    from mmkd.utils.errors import ConfigError

    task, members = DetectionTask({}), ['student1', 'student2']
    task.networks = dict.fromkeys(members)
    with pytest.raises(ConfigError, match=message):
        task.build_ensemble(members, **{option: value})
    assert task.build_ensemble(members, weights=dict(student2=2.0)).weights == [1.0, 2.0]


def test_wbf_of_three_members():
    c = (112, 12, 152, 52, 0.3, 0)
    fused = DetectionEnsemble(conf_type='avg')([boxes_of(A), boxes_of(B), boxes_of(c, FAR)])
    mean = [(0.6 * a + 0.9 * b + 0.3 * d) / 1.8 for a, b, d in zip(A[:4], B[:4], c[:4])]
    check(fused, (*mean, 0.6, 0), (*FAR[:4], 0.5 / 3, 0))


def test_by_avg_duplicates_of_one_member_count_like_boxes_of_several():
    """The library's min(members, boxes) / members; `absent_model_aware_avg` tells them apart."""
    both = [boxes_of(A, B), boxes_of()]
    check(DetectionEnsemble(conf_type='avg')(both), (*MEAN, 0.75, 0))
    check(DetectionEnsemble(conf_type='absent_model_aware_avg')(both), (*MEAN, 0.5, 0))


def test_nms_keeps_the_best_box_as_it_is():
    fused = MODELS.build(dict(type='mmkd.DetectionEnsemble', fusion='nms'))(
        [boxes_of(FAR, A), boxes_of(B)]
    )
    check(fused, B, FAR)


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('iou_thr, count', [(0.8, 1), (0.83, 2)])
def test_boxes_are_fused_above_the_threshold(fusion, iou_thr, count):
    assert len(DetectionEnsemble(fusion, iou_thr=iou_thr)([boxes_of(A), boxes_of(B)])) == count


@pytest.mark.parametrize('fusion', FUSIONS)
def test_separate_boxes_pass_through_best_first(fusion):
    low = (60, 5, 70, 15, 0.2, 3)
    check(DetectionEnsemble(fusion)([boxes_of(low, FAR, B), boxes_of()]), B, FAR, low)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_an_ensemble_of_one_is_that_member(fusion):
    """Overlapping boxes, low scores, boxes over the border and their order stay."""
    rows = [FAR, A, B, (-10, 60, 250, 130, 0.0004, 0), (5, 5, 5, 9, 0.3, 0)]
    check(DetectionEnsemble(fusion, max_per_img=2)([boxes_of(*rows)]), *rows, tolerance=1e-6)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_labels_are_fused_apart(fusion):
    first, second = (*A[:4], 0.6, 2), (*A[:4], 0.8, 7)
    fused = DetectionEnsemble(fusion)([boxes_of(first), boxes_of(second)])
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
    fused = DetectionEnsemble(fusion)(predictions)
    assert fused.bboxes.shape == (0, 4) and fused.scores.shape == fused.labels.shape == (0,)
    assert (
        fused.bboxes.dtype == fused.scores.dtype == torch.float32
        and fused.labels.dtype == torch.long
    )


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('order', [1, -1])
def test_one_member_without_boxes(fusion, order):
    check(DetectionEnsemble(fusion)([boxes_of(B, FAR), boxes_of()][::order]), B, FAR)


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize(
    'broken',
    [
        (30, 10, 30, 50),
        (30, 10, 60, 10),
        (60, 10, 30, 50),
        (30, 50, 60, 10),
        (30, 30, 30, 30),
        (float('nan'), 10, 60, 50),
        (30, 10, 60, float('nan')),
        (2e5, 2e5, 3e5, 3e5),
    ],
)
def test_degenerate_boxes_are_dropped_silently(fusion, broken, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fused = DetectionEnsemble(fusion)([boxes_of((*broken, 0.99, 0), FAR), boxes_of(B)])
    check(fused, B, FAR)
    assert not capsys.readouterr().out


@pytest.mark.parametrize('fusion', FUSIONS)
def test_boxes_over_the_border_are_cut_no_more_than_the_members(fusion):
    """YOLOX does not cut its boxes: the ensemble's would overlap more by that alone."""
    rows = [(-10, 60, 50, 130, 0.7, 0), (150, -5, 220, 40, 0.4, 0), (210, 10, 240, 50, 0.3, 0)]
    check(DetectionEnsemble(fusion)([boxes_of(*rows), boxes_of(*rows)]), *rows)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_an_exploded_box_leaves_the_others_as_they_are(fusion):
    """An untrained YOLOX's sizes are exponentials."""
    exploded = (-1e12, -1e12, 1e12, 1e12, 0.95, 0)
    fused = DetectionEnsemble(fusion)([boxes_of(exploded, FAR), boxes_of(B)])
    check(fused[1:], B, FAR, tolerance=0.05)
    assert fused.bboxes[0].abs().max() == 1e5


@pytest.mark.parametrize('fusion', FUSIONS)
def test_the_overlaps_that_decide_are_those_of_the_boxes_themselves(fusion):
    """IoU 0.5 of the boxes, 0.71 of what an image of 200 x 100 shows of them."""
    one, other = (-80, 0, 100, 60, 0.9, 0), (0, 0, 140, 60, 0.6, 0)
    assert len(DetectionEnsemble(fusion)([boxes_of(one), boxes_of(other)])) == 2


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('max_per_img', [1, 2, 3, 10])
def test_the_best_boxes_are_kept(fusion, max_per_img):
    rows = [(40 * i, 10, 40 * i + 30, 90, score, 0) for i, score in enumerate((0.3, 0.9, 0.1, 0.7))]
    fused = DetectionEnsemble(fusion, max_per_img=max_per_img)(
        [boxes_of(*rows[:2]), boxes_of(*rows[2:])]
    )
    check(fused, *sorted(rows, key=lambda row: -row[4])[:max_per_img])


@pytest.mark.parametrize('fusion', FUSIONS)
def test_low_scores_are_left_out_before_the_fusion(fusion):
    fused = DetectionEnsemble(fusion, score_thr=0.65)([boxes_of(A), boxes_of(B)])
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
        fused = ensemble(inputs)
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
    fused = DetectionEnsemble(fusion)(predictions)
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
        (dict(iou_thr=1), 'iou_thr: expected a number below 1, got 1'),
        (dict(iou_thr=-0.1), 'iou_thr: '),
        (dict(iou_thr=float('nan')), 'iou_thr: '),
        (dict(score_thr=1.0), 'score_thr: expected a number below 1, got 1.0'),
        (dict(iou_thr='0.5'), r"iou_thr: expected a number in \[0, 1\], got '0.5'"),
        (dict(iou_thr=True), 'iou_thr: '),
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
    fused = DetectionEnsemble(max_per_img=-1)([one, one])
    assert len(fused.bboxes) == 2


@pytest.mark.parametrize('value', [0, -2, 2.5, '3', True])
def test_wrong_max_per_img(value):
    with pytest.raises(ValueError, match='max_per_img'):
        DetectionEnsemble(max_per_img=value)


def masked(*rows):
    """One member's predictions whose masks fill their boxes, in an image of 100 x 200 px."""
    found = boxes_of(*rows)
    masks = torch.zeros(len(rows), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2, *_) in zip(masks, rows):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    found.masks = masks
    return found


def test_masks_are_voted_on_by_score():
    fused = DetectionEnsemble('wbf')([masked(FAR, A), masked(B)])
    assert fused.masks.shape == (2, *SIZE) and fused.masks.dtype == torch.bool
    # B has 0.6 of the votes, A 0.4: what B says.
    assert torch.equal(fused.masks, masked(B, FAR).masks)
    # With three, a pixel that two of them cover.
    third = (112, 10, 152, 50, 0.7, 0)
    fused = DetectionEnsemble('wbf')([masked(A), masked(B), masked(third)])
    columns = fused.masks[0][20].nonzero().flatten().tolist()
    assert columns == list(range(112, 152))  # 0.9 + 0.7 of 2.2 at 150 and 151; 0.6 at 110 and 111


def test_by_nms_a_box_keeps_its_mask_and_labels_do_not_mix():
    other = (*B[:4], 0.5, 1)
    fused = DetectionEnsemble('nms')([masked(A, other), masked(B)])
    assert torch.equal(fused.masks, masked(B, other).masks)
    assert fused.labels.tolist() == [0, 1]


@pytest.mark.parametrize('fusion', FUSIONS)
def test_masks_of_no_boxes(fusion):
    ensemble = DetectionEnsemble(fusion)
    assert ensemble([masked(), masked()]).masks.shape == (0, *SIZE)
    assert torch.equal(ensemble([masked(), masked(FAR)]).masks, masked(FAR).masks)


def test_a_member_with_masks_alone_takes_part_with_their_boxes():
    """SOLOv2 leaves its boxes empty."""
    alone = masked(B, FAR, (5, 5, 5, 5, 0.9, 0))  # one mask is empty
    alone.bboxes = torch.zeros_like(alone.bboxes)
    fused = DetectionEnsemble('wbf')([alone, masked(A)])
    expected = DetectionEnsemble('wbf')([masked(B, FAR), masked(A)])
    torch.testing.assert_close(fused.bboxes, expected.bboxes)
    assert torch.equal(fused.masks, expected.masks) and not alone.bboxes.any()


def test_masks_of_some_members_are_lost_with_a_warning(caplog):
    ensemble = DetectionEnsemble()
    for _ in range(2):
        assert 'masks' not in ensemble([masked(A), boxes_of(B)])
    assert caplog.text.count('some of its members give no masks') <= 1 and ensemble.told


def test_importing_mmkd_imports_neither_numba_nor_pandas():
    code = (
        'import sys\n'
        'import mmkd.models.ensembles.detection_ensemble\n'
        "print('ensemble_boxes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == 'False'
