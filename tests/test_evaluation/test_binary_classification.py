import math

import numpy as np
import pytest
import torch

from mmkd.evaluation import BinaryClassification

NAMES = {'auc', 'f1', 'sensitivity', 'specificity', 'precision', 'accuracy'}


def samples_of(scores, labels):
    """Data samples as mmengine's Evaluator hands them over; `scores` are those of class 1."""
    return [
        dict(
            pred_score=torch.tensor([1 - s, s], dtype=torch.float64), gt_label=torch.tensor([label])
        )
        for s, label in zip(scores, labels)
    ]


def measure(samples, **kwargs):
    metric = BinaryClassification(**kwargs)
    for start in range(0, len(samples), 3):
        metric.process({}, samples[start : start + 3])
    return metric.evaluate(len(samples))


def by_hand(scores, true, predicted):
    """From pairs and counts: AUC is the share of (positive, negative) pairs in order, ties half."""
    scores, true, predicted = map(np.asarray, (scores, true, predicted))
    differences = scores[true == 1][:, None] - scores[true == 0][None]
    tp, fp = ((predicted == 1) & (true == 1)).sum(), ((predicted == 1) & (true == 0)).sum()
    fn, tn = ((predicted == 0) & (true == 1)).sum(), ((predicted == 0) & (true == 0)).sum()
    ratios = dict(
        auc=((differences > 0) + 0.5 * (differences == 0)).mean(),
        f1=2 * tp / (2 * tp + fp + fn),
        sensitivity=tp / (tp + fn),
        specificity=tn / (tn + fp),
        precision=tp / (tp + fp),
        accuracy=(tp + tn) / len(true),
    )
    return {f'binary/{name}': 100 * value for name, value in ratios.items()}


@pytest.mark.parametrize('positive', [0, 1])
@pytest.mark.parametrize(
    'seed, grains', [(0, None), (1, None), (2, 5), (3, 3)]
)  # grains: few values, so that many tie
def test_against_counting_by_hand(seed, grains, positive):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 40)
    scores = np.clip(rng.uniform(0.05, 0.95, 40) + 0.2 * (labels - 0.5), 0.01, 0.99)
    if grains:
        scores = (np.floor(scores * grains) + 0.3) / (grains + 1)
    measured = measure(samples_of(scores, labels), positive=positive)
    own_scores = torch.tensor(scores if positive else 1 - scores, dtype=torch.float32).numpy()
    expected = by_hand(own_scores, labels == positive, (scores > 0.5) == positive)
    assert set(measured) == {f'binary/{name}' for name in NAMES}
    assert measured == pytest.approx(expected, rel=1e-9)
    assert 0 < expected['binary/auc'] < 100 and 0 < expected['binary/f1'] < 100


@pytest.mark.parametrize(
    'scores, auc, accuracy',
    [
        ([0.1, 0.2, 0.8, 0.9], 100, 100),
        ([0.9, 0.8, 0.2, 0.1], 0, 0),
        ([0.3, 0.3, 0.3, 0.3], 50, 50),
        ([0.6, 0.7, 0.8, 0.9], 100, 50),
    ],
)
def test_known_cases(scores, auc, accuracy):
    measured = measure(samples_of(scores, [0, 0, 1, 1]))
    assert measured['binary/auc'] == pytest.approx(auc) and measured[
        'binary/accuracy'
    ] == pytest.approx(accuracy)


def test_swapping_the_positive_class_swaps_sensitivity_and_specificity():
    samples = samples_of([0.1, 0.6, 0.8, 0.3, 0.9], [0, 0, 1, 1, 1])
    one, zero = measure(samples, positive=1), measure(samples, positive=0)
    assert (
        one['binary/sensitivity']
        == pytest.approx(zero['binary/specificity'])
        == pytest.approx(200 / 3)
    )
    assert (
        one['binary/specificity'] == pytest.approx(zero['binary/sensitivity']) == pytest.approx(50)
    )
    assert (
        one['binary/auc'] == pytest.approx(zero['binary/auc'])
        and one['binary/accuracy'] == zero['binary/accuracy']
    )


@pytest.mark.parametrize(
    'label, undefined', [(1, {'auc', 'specificity'}), (0, {'auc', 'sensitivity'})]
)
def test_data_of_one_class(label, undefined):
    measured = measure(samples_of([0.2, 0.7, 0.9], [label] * 3))
    assert {name for name in NAMES if math.isnan(measured[f'binary/{name}'])} == undefined
    assert measured['binary/accuracy'] == pytest.approx(200 / 3 if label else 100 / 3)


def test_nothing_predicted_positive():
    measured = measure(samples_of([0.1, 0.2, 0.3], [0, 1, 1]))
    assert (
        measured['binary/precision'] == measured['binary/f1'] == measured['binary/sensitivity'] == 0
    )
    assert measured['binary/specificity'] == 100


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_a_member_that_has_diverged_has_no_figures(bad):
    metrics = measure(samples_of([0.2, bad, 0.9], [0, 1, 1]))
    assert set(metrics) == {f'binary/{name}' for name in NAMES}
    assert all(math.isnan(value) for value in metrics.values())


def test_padded_samples_of_the_last_batch_are_left_out():
    metric = BinaryClassification()
    metric.process({}, samples_of([0.9, 0.2, 0.1], [1, 0, 1]))
    assert metric.evaluate(2)['binary/accuracy'] == 100


def test_the_prefix_can_be_another():
    assert set(measure(samples_of([0.1, 0.9], [0, 1]), prefix='polyp')) == {
        f'polyp/{name}' for name in NAMES
    }


def test_half_precision_scores():
    samples = [
        dict(pred_score=torch.tensor(pair, dtype=torch.bfloat16), gt_label=torch.tensor([label]))
        for pair, label in (([0.75, 0.25], 0), ([0.25, 0.75], 1))
    ]
    assert measure(samples)['binary/accuracy'] == 100


@pytest.mark.parametrize('classes', [1, 3])
def test_other_numbers_of_classes_are_refused(classes):
    sample = dict(pred_score=torch.full((classes,), 1 / classes), gt_label=torch.tensor([0]))
    with pytest.raises(
        ValueError, match=f'BinaryClassification: for two classes, got scores of {classes}'
    ):
        BinaryClassification().process({}, [sample])


@pytest.mark.parametrize('positive', [2, -1, 'polyp', None])
def test_wrong_positive_class(positive):
    with pytest.raises(ValueError, match='BinaryClassification.positive: expected 0 or 1'):
        BinaryClassification(positive=positive)


def test_it_is_built_from_a_config():
    from mmengine.registry import METRICS

    metric = METRICS.build(dict(type='mmkd.BinaryClassification', positive=0))
    assert type(metric) is BinaryClassification and metric.positive == 0
