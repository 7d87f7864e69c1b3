"""Statistics of paired runs against scipy's and hand-computed figures."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from mmkd.apis.study.statistics import detectable_difference, holm, paired, sign_flip_p


@pytest.mark.parametrize(
    'differences, p',
    [
        ([1, 2, 3], 2 / 8),  # only all signs alike reach |6|
        ([3, -1, 2], 4 / 8),  # |4| is reached by +-(3 + 1 + 2) and +-(3 - 1 + 2)
        ([1, 1, 1, 1, 1], 2 / 32),
        ([0.1, 0.2, -0.3], 1.0),
        ([0.0, 0.0], 1.0),
    ],
)
def test_sign_flip_p_by_hand(differences, p):
    assert sign_flip_p(differences) == pytest.approx(p)


def test_sign_flip_p_equals_scipys():
    rng = np.random.default_rng(0)
    for n in (4, 7, 10):
        values = rng.normal(0.5, 1, n)
        reference = stats.permutation_test(
            (values,), np.mean, permutation_type='samples', n_resamples=np.inf
        )
        assert sign_flip_p(values) == pytest.approx(reference.pvalue)


def test_paired_equals_scipys_t_test():
    arm, control = np.array([71.0, 74.2, 69.5, 73.1]), np.array([70.1, 71.9, 69.9, 70.0])
    found = paired(list(arm - control))
    reference = stats.ttest_rel(arm, control)
    interval = reference.confidence_interval(0.95)
    assert (found.n, found.mean) == (4, pytest.approx(1.475))
    assert found.sd == pytest.approx(np.std(arm - control, ddof=1))
    assert found.p_t == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_more_than_12_pairs_have_no_sign_flip_p():
    assert paired([1.0, 2.0] * 6).p_flip is not None
    assert paired([1.0, 2.0] * 7).p_flip is None and paired([1.0, 2.0] * 7).p_t < 0.05


def test_one_pair_and_equal_differences():
    one = paired([2.0])
    assert (one.n, one.mean, one.sd, one.low, one.p_t, one.p_flip) == (1, 2.0, *[None] * 4)
    same = paired([0.0, 0.0, 0.0])
    assert (same.p_t, same.low, same.high, same.detectable) == (1.0, 0.0, 0.0, 0.0)
    assert paired([1.0, 1.0, 1.0]).p_t == 0.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []


@pytest.mark.parametrize('n', [2, 3, 5, 10, 34, 100])
def test_the_detectable_difference_has_a_power_of_80_percent(n):
    """The power by integration over the sample's standard deviation, not by the noncentral t."""
    sd = 1.7
    shift = detectable_difference(sd, n) / sd * math.sqrt(n)
    limit = stats.t.ppf(0.975, n - 1)

    def density(s):
        bar = limit * s / math.sqrt(n - 1)
        return stats.chi(n - 1).pdf(s) * (
            stats.norm.cdf(shift - bar) + stats.norm.cdf(-shift - bar)
        )

    assert integrate.quad(density, 0, np.inf)[0] == pytest.approx(0.8, abs=1e-4)


def test_34_pairs_find_half_a_standard_deviation():
    assert detectable_difference(1.0, 34) == pytest.approx(0.495, abs=1e-3)  # as G*Power says
