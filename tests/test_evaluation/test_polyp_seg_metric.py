import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd.evaluation import PolypSegMetric
from mmkd.evaluation.foreground_maps import (
    counts_by_threshold,
    hausdorff_95,
    overlap_curves,
    stretched,
    weighted_f,
)
from mmkd.evaluation.polyp_seg_metric import MEASURES, OF_MAP
from mmkd.utils.errors import ConfigError


def sample(truth, scores=None, classes=None):
    """A data sample as mmengine's Evaluator hands it over."""
    made = dict(img_path='a.jpg', gt_sem_seg=dict(data=torch.tensor(truth)[None]))
    if scores is not None:
        made['seg_logits'] = dict(data=scores)
    if classes is not None:
        made['pred_sem_seg'] = dict(data=torch.tensor(classes)[None])
    return made


def measure(*samples, **kwargs):
    metric = PolypSegMetric(**kwargs)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_the_mean_over_images_and_not_over_pixels():
    half = sample([[1, 1, 0, 0]], classes=[[1, 0, 0, 0]])  # Dice 2/3, IoU 1/2
    none = sample([[0, 0, 0, 1]], classes=[[1, 0, 0, 0]])
    measured = measure(half, none)
    assert measured == pytest.approx({'polyp/dice': 100 / 3, 'polyp/iou': 25})


def test_probability_of_two_channels_one_channel_and_classes():
    truth = [[1, 0, 1, 0]]
    polyp = torch.tensor([[0.9, 0.6, 0.4, 0.1]])
    two = torch.stack([1 - polyp, polyp]).log() + 3  # logits are known up to a constant
    expected = pytest.approx({'polyp/dice': 50, 'polyp/iou': 100 / 3})
    # The sigmoid at 0.4 is below 0.5 whatever threshold the head has.
    wrong = [[1, 1, 1, 1]]
    assert measure(sample(truth, two, wrong)) == expected
    assert measure(sample(truth, polyp[None], wrong)) == expected
    assert measure(sample(truth, None, [[1, 1, 0, 0]])) == expected
    with pytest.raises(ConfigError, match=r'positive: 2 of a prediction with 2 channels'):
        measure(sample(truth, two), positive=2)
    with pytest.raises(ConfigError, match=r'positive: 2 of a prediction with 1 channel'):
        measure(sample(truth, polyp[None]), positive=2)
    # Of one channel, too, the label may be the background's.
    background = measure(sample(truth, two), positive=0)
    assert background == measure(sample(truth, polyp[None]), positive=0) == expected


def test_images_without_polyp():
    nothing, something = [[0, 0]], [[0, 1]]
    assert measure(sample(nothing, classes=nothing))['polyp/dice'] == 100
    assert measure(sample(nothing, classes=something)) == {'polyp/dice': 0, 'polyp/iou': 0}
    assert measure(sample(something, classes=nothing)) == {'polyp/dice': 0, 'polyp/iou': 0}


def test_ignored_pixels_and_another_label():
    measured = measure(sample([[2, 255, 1]], classes=[[2, 2, 1]]), positive=2)
    assert measured == {'polyp/dice': 100, 'polyp/iou': 100}


def test_another_size_is_an_error():
    with pytest.raises(ConfigError, match=r"a.jpg.*\(1, 2\).*\(1, 3\).*after 'Resize'"):
        measure(sample([[0, 0, 1]], classes=[[0, 1]]))


def test_measures():
    measured = measure(sample([[0, 1]], classes=[[0, 1]]), measures=['iou'], prefix='seen')
    assert measured == {'seen/iou': 100}
    with pytest.raises(ConfigError, match="unknown name 'dise'.*'dice'"):
        PolypSegMetric(measures=['dise'])
    for wrong in ('dice', []):
        with pytest.raises(ConfigError, match="expected 'all' or a list of names"):
            PolypSegMetric(measures=wrong)


# Maps and masks of 28 x 36 pixels, and what PySODMetrics 1.6.2 says of each and of all, and
# MedPy 0.5.2 of the contours at 0.5 (make_foreground_maps.py).
STORED = np.load(Path(__file__).with_name('foreground_maps.npz'))
EXPECTED = json.loads(Path(__file__).with_name('foreground_maps.json').read_text())
NAMES = STORED['names'].tolist()


def stored_samples(names):
    for name in names:
        place = NAMES.index(name)
        scores = torch.from_numpy(STORED['maps'][place].astype(np.float32) / 255)
        yield sample(STORED['masks'][place].astype(int), scores[None])


@pytest.mark.parametrize('name', [n for n in NAMES if n != 'no_polyp'])
def test_each_measure_equals_the_reference(name):
    measured = measure(*stored_samples([name]), measures=OF_MAP)
    expected = {f'polyp/{key}': 100 * EXPECTED[name][key] for key in OF_MAP}
    assert measured == pytest.approx(expected, abs=0.1)


def test_the_mean_over_images_equals_the_reference():
    """Among them an image without polyp; Dice and IoU, which differ there, are compared above."""
    names = [key for key in OF_MAP if 'curve' not in key]
    measured = measure(*stored_samples(NAMES), measures=names)
    expected = {f'polyp/{key}': 100 * EXPECTED['all'][key] for key in names}
    assert measured == pytest.approx(expected, abs=0.1)
    assert max(EXPECTED[n]['max_e'] for n in NAMES) > EXPECTED['all']['max_e'] + 0.1


def test_the_map_of_an_image_without_polyp():
    """No pixel of mask: of the highest threshold alone a part is predicted, here two pixels."""
    values = stretched(np.array([[0.2, 0.3], [0.3, 0.1]]))
    mask = np.zeros((2, 2), bool)
    hits, false = counts_by_threshold(values, mask)
    assert not hits.any() and false[0] == 2 and false[-1] == 4
    assert not overlap_curves(hits, false, 0)[0].any() and weighted_f(values, mask) == 0
    hits, false = counts_by_threshold(np.full((2, 2), 0.5), mask)  # constant: it is not stretched
    dice, iou = overlap_curves(hits, false, 0)
    assert dice[:128].all() and not dice[128:].any() and (dice == iou).all()


@pytest.mark.parametrize('name', [n for n in NAMES if 'hd95' in EXPECTED[n]])
def test_the_distance_of_contours_equals_the_reference(name):
    measured = measure(*stored_samples([name]), measures=['hd95'])
    assert measured == {'polyp/hd95': pytest.approx(EXPECTED[name]['hd95'], abs=1e-5)}


def test_the_distance_of_contours_of_empty_masks():
    nothing, something = [[0, 0, 0]] * 4, [[0, 1, 0]] * 4
    for truth, predicted, expected in [
        (nothing, nothing, 0),
        (something, nothing, 5),  # the diagonal of 4 x 3 pixels
        (nothing, something, 5),
        (something, something, 0),
    ]:
        found = measure(sample(truth, classes=predicted), measures=['hd95', 'dice'])
        assert found['polyp/hd95'] == expected
    missed, found = sample(something, classes=nothing), sample(something, classes=something)
    assert measure(missed, found, measures=['hd95']) == {'polyp/hd95': 2.5}


def test_the_distance_of_contours_counts_those_of_both_masks():
    """One far speck moves the percentile where it is more than a twentieth of all contours."""
    mask = np.zeros((20, 60), bool)
    mask[5:8, 2:5] = True  # eight pixels of contour
    predicted = mask.copy()
    predicted[6, 50] = True
    # Of 17 distances one is 46, the others 0: the percentile lies at 0.95 * 16 = 15.2 of 16.
    assert hausdorff_95(predicted, mask) == pytest.approx(0.2 * 46)
    assert hausdorff_95(mask, predicted) == pytest.approx(0.2 * 46)


def test_all_measures_at_once():
    measured = measure(*stored_samples(['good', 'shifted']), measures='all')
    assert {key.removeprefix('polyp/') for key in measured} == set(MEASURES)
