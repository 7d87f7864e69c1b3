"""Whether scores are probabilities: the expected calibration error, and the temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmkd.registry import METRICS
from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError

LIMITS = (0.05, 20.0)  # of a temperature
SUM_ROUNDING = 2e-3  # of probabilities, also of half precision


def bin_sums(confidence: np.ndarray, right: np.ndarray, bins: int) -> np.ndarray:
    """Return by bin of equal width (bins, 3): how many, their confidence and their right ones."""
    place = np.clip((np.asarray(confidence) * bins).astype(int), 0, bins - 1)
    values = (None, confidence, np.asarray(right, float))
    return np.stack([np.bincount(place, value, bins) for value in values], axis=1)


def error_of_bins(sums: np.ndarray) -> float:
    """Return the expected calibration error of `bin_sums`; NaN of nothing."""
    total = sums[:, 0].sum()
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / total) if total else float('nan')


def expected_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error, in [0, 1].

    The mean distance between confidence and the share of right ones over bins of confidence,
    weighted by how many are in them (Guo et al., "On calibration of modern neural networks", ICML
    2017, equation 3).

    Args:
        confidence: In [0, 1], (N,).
        right: Whether they were right, (N,).
        bins: Number of bins of equal width.
    """
    return error_of_bins(bin_sums(confidence, right, bins))


def fit_temperature(log_odds: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature with the least negative log-likelihood (Guo et al., section 4.2).

    Args:
        log_odds: Logits or log-probabilities (N, C); or the log-odds (N,) of single things.
        truth: The labels (N,); or whether each thing is so (N,).

    Returns:
        A number in [0.05, 20]: above 1 where a network is too sure.
    """
    from scipy.optimize import minimize_scalar

    values = torch.as_tensor(np.asarray(log_odds), dtype=torch.float64)
    target = torch.as_tensor(np.asarray(truth))
    if not len(values):
        raise ConfigError('temperature: nothing to fit it on')

    def loss(log_temperature: float) -> float:
        scaled = values / np.exp(log_temperature)
        if values.dim() == 1:
            own = torch.nn.functional.binary_cross_entropy_with_logits(scaled, target.double())
        else:
            own = torch.nn.functional.cross_entropy(scaled, target.long())
        return float(own)

    found = minimize_scalar(loss, bounds=tuple(np.log(LIMITS)), method='bounded')
    return float(np.exp(found.x))


def fit_platt(log_odds: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of the log-odds with the least negative log-likelihood.

    Platt, "Probabilistic outputs for support vector machines" (1999), with his targets
    (N+ + 1) / (N+ + 2) and 1 / (N- + 2) in place of 1 and 0, so that few samples decide little.

    Args:
        log_odds: Of single things (N,).
        truth: Whether each thing is so (N,).

    Returns:
        The slope in [0.05, 20], and the offset.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    values, right = np.asarray(log_odds, float), np.asarray(truth, bool)
    if not len(values):
        raise ConfigError('calibration: nothing to fit it on')
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = parameters[0] * values + parameters[1]
        error = expit(scaled) - target
        value = (np.logaddexp(0, scaled) - target * scaled).mean()
        return float(value), np.array([(error * values).mean(), error.mean()])

    found = minimize(loss, (1.0, 0.0), jac=True, method='L-BFGS-B', bounds=[LIMITS, (None, None)])
    return float(found.x[0]), float(found.x[1])


@METRICS.register_module()
class Calibration(BaseMetric):
    """Expected calibration error of classifiers and, over all pixels, of segmenters, in percent.

    `ece` compares the probability of the chosen class with how often it is right (see
    `expected_error`); `mce` is the worst bin's distance. `confidence` and `accuracy` are the means
    of the two: a network is too sure where the first is above the second. Of a single label; where
    an image may have several, each class of each image counts by its own. Boxes: `PolypDetMetric`.

    Args:
        bins: Bins of confidence.
        ignore_index: Label of pixels that do not count.
        collect_device: As every mmengine metric's.
        prefix: As every mmengine metric's. Default: `calibration`.
    """

    default_prefix = 'calibration'

    def __init__(
        self,
        bins: int = 15,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.bins = check_integer(bins, 'Calibration.bins')
        self.ignore_index = check_integer(ignore_index, 'Calibration.ignore_index', -1)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count each image's confidences by bin.

        Args:
            data_batch: Not used.
            data_samples: With `pred_score` and `gt_label`, or `seg_logits` and `gt_sem_seg`.
        """
        for sample in data_samples:
            log_odds, truth = odds_and_truth(sample, self.ignore_index)
            if log_odds.dim() == 1:
                probability = log_odds.sigmoid()
                confidence = torch.maximum(probability, 1 - probability)
                right = (probability >= 0.5) == truth.bool()
            else:
                confidence, label = log_odds.softmax(1).max(1)
                right = label == truth
            self.results.append(bin_sums(confidence.numpy(), right.numpy(), self.bins))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Return the figures of all images."""
        sums = np.sum(results, axis=0)
        used = sums[sums[:, 0] > 0]
        if not len(used):
            return dict.fromkeys(('ece', 'mce', 'confidence', 'accuracy'), float('nan'))
        gaps = np.abs(used[:, 1] - used[:, 2]) / used[:, 0]
        total = used.sum(0)
        figures = dict(
            ece=error_of_bins(sums),
            mce=gaps.max(),
            confidence=total[1] / total[0],
            accuracy=total[2] / total[0],
        )
        return {name: 100 * float(value) for name, value in figures.items()}


def odds_and_truth(sample: Any, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Return a prediction's log-odds and what is true.

    Args:
        sample: Data sample, as a dict, of a classifier or a segmenter.
        ignore_index: Label of pixels that do not count.

    Returns:
        (N, C) and labels (N,) where one of C classes is true; (N,) and 0 or 1 where each of N
        either is or not. N is 1 for an image, or the number of pixels.
    """
    if 'pred_score' in sample:
        scores, labels = sample['pred_score'].float().cpu(), sample['gt_label'].cpu().long()
        # Classes exclude each other where their probabilities sum to 1; else each is or is not.
        if len(labels) == 1 and len(scores) > 1 and abs(float(scores.sum()) - 1) < SUM_ROUNDING:
            return scores.clamp(min=1e-12).log()[None], labels
        return _log_odds(scores), torch.zeros_like(scores).index_fill(0, labels, 1.0)
    if 'seg_logits' not in sample:
        raise ConfigError('Calibration: for classifiers and segmenters; boxes: PolypDetMetric.ece')
    scores = sample['seg_logits']['data'].float().cpu().flatten(1)
    truth = sample['gt_sem_seg']['data'].cpu().flatten()
    if scores.shape[1] != len(truth):
        raise ConfigError(
            f'Calibration: a prediction of {scores.shape[1]} pixels for a ground truth of '
            f"{len(truth)}; in the pipeline, 'LoadAnnotations' must come after 'Resize'"
        )
    valid = truth != ignore_index
    if len(scores) == 1:  # mmseg leaves the foreground's probability
        return _log_odds(scores[0][valid]), truth[valid]
    return scores.T[valid].log_softmax(1), truth[valid]


def _log_odds(probability: Tensor) -> Tensor:
    return probability.clamp(1e-6, 1 - 1e-6).logit()
