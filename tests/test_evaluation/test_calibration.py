"""Calibration errors, temperatures, and the tables of classes."""

import logging

import numpy as np
import pytest
import torch

from mmkd.evaluation import Calibration, ClassTable
from mmkd.evaluation.calibration import expected_error, fit_temperature
from mmkd.utils.errors import ConfigError

GENERATOR = np.random.default_rng(0)


def evaluated(metric, samples):
    metric.process({}, samples)
    return {key.split('/')[1]: value for key, value in metric.evaluate(len(samples)).items()}


def test_expected_error_by_hand():
    # Two bins: (0.2, 0.4) with one of two right, (0.9, 0.7) with both.
    found = expected_error(np.array([0.2, 0.4, 0.9, 0.7]), np.array([0, 1, 1, 1]), bins=2)
    assert found == pytest.approx((abs(0.6 - 1) + abs(1.6 - 2)) / 4)
    assert np.isnan(expected_error(np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize('classes', [None, 4])
@pytest.mark.parametrize('temperature', [0.5, 3.0])
def test_a_temperature_is_found_again(classes, temperature):
    """Truth is drawn from the probabilities; the logits are then sharpened or blunted."""
    logits = 2 * GENERATOR.standard_normal((6000, classes or 1))
    if classes is None:
        logits = logits[:, 0]
        truth = GENERATOR.random(6000) < 1 / (1 + np.exp(-logits))
    else:
        truth = (logits + GENERATOR.gumbel(size=logits.shape)).argmax(1)
    assert fit_temperature(logits * temperature, truth) == pytest.approx(temperature, rel=0.1)
    with pytest.raises(ConfigError, match='nothing to fit'):
        fit_temperature(logits[:0], truth[:0])


def test_classifiers():
    def sample(score, label):
        return dict(pred_score=torch.tensor([1 - score, score]), gt_label=torch.tensor([label]))

    found = evaluated(
        Calibration(bins=10), [sample(0.95, 1), sample(0.91, 0), sample(0.3, 0), sample(0.35, 0)]
    )
    # Confidences 0.95 and 0.91 (one right), 0.7 and 0.65 (right) in bins of their own.
    assert found['ece'] == pytest.approx(100 * (0.86 + 0.3 + 0.35) / 4, abs=1e-3)
    assert found['mce'] == pytest.approx(43, abs=1e-3)
    assert found['accuracy'] == 75 and found['confidence'] == pytest.approx(80.25, abs=1e-3)


@pytest.mark.parametrize('scored', [True, False])
def test_classes_that_do_not_exclude_each_other(scored):
    """Each class is a decision of its own, also of images that have one label."""
    samples = [
        dict(pred_score=torch.tensor([0.9, 0.2, 0.6]), gt_label=torch.tensor([0])),
        dict(pred_score=torch.tensor([0.9, 0.2, 0.6]), gt_label=torch.tensor([0, 2])),
        dict(pred_score=torch.tensor([0.9, 0.2, 0.6]), gt_label=torch.tensor([])),
    ]
    for sample in samples if scored else ():
        truth = torch.zeros(3).index_fill(0, sample['gt_label'].long(), 1.0)
        sample['gt_score'] = truth
    found = evaluated(Calibration(bins=10), samples)
    # Confidences 0.9 (two of three right), 0.8 (all right) and 0.6 (one of three).
    errors = abs(0.9 - 2 / 3), abs(0.8 - 1), abs(0.6 - 1 / 3)
    assert found['ece'] == pytest.approx(100 * sum(errors) / 3, abs=1e-3)
    assert found['accuracy'] == pytest.approx(100 * 6 / 9)


@pytest.mark.parametrize('channels', [1, 2])
def test_segmenters(channels):
    probability = torch.tensor([[0.8, 0.8, 0.1, 0.6]])
    truth = torch.tensor([[1, 0, 0, 255]])
    scores = probability if channels == 1 else torch.stack([1 - probability, probability]).log()
    sample = dict(
        seg_logits=dict(data=scores.reshape(channels, 1, 4)),
        gt_sem_seg=dict(data=truth.reshape(1, 1, 4)),
    )
    found = evaluated(Calibration(bins=10), [sample])
    assert found['ece'] == pytest.approx(100 * (abs(1.6 - 1) + abs(0.9 - 1)) / 3, abs=1e-3)
    sample['gt_sem_seg'] = dict(data=truth[:, :2])
    with pytest.raises(ConfigError, match='must come after'):
        evaluated(Calibration(), [sample])
    with pytest.raises(ConfigError, match='boxes: PolypDetMetric.ece'):
        evaluated(Calibration(), [dict(pred_instances={})])


def test_tables_of_classes(caplog):
    def sample(truth, predicted):
        score = torch.nn.functional.one_hot(torch.tensor(predicted), 3).float()
        return dict(pred_score=score, gt_label=torch.tensor([truth]))

    metric = ClassTable()
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    samples = [sample(0, 0), sample(0, 1), sample(1, 1), sample(1, 1)]
    with caplog.at_level(logging.INFO, logger='mmkd_test'):
        found = evaluated(metric, samples)
    assert found['recall_a'] == 50 and found['precision_a'] == 100
    assert found['recall_b'] == 100 and found['precision_b'] == pytest.approx(200 / 3)
    assert found['f1_b'] == pytest.approx(80) and found['f1_c'] == 0
    assert found['macro_f1'] == pytest.approx((200 / 3 + 80 + 0) / 3)
    with pytest.raises(ConfigError, match='for one label an image'):
        evaluated(ClassTable(), [dict(pred_score=torch.rand(3), gt_label=torch.tensor([0, 1]))])
