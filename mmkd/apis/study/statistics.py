"""Statistics of runs that are paired by seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

EXACT = 12  # the sign-flip test counts all 2^n cases up to this n


@dataclass(frozen=True)
class Paired:
    """Summary of paired differences. What n is too small for is None.

    `low` and `high` are the 95 % interval of the mean by Student's t. `detectable` is the true
    difference that a two-sided t test at 5 % finds with a power of 80 %, for this n and spread.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p_t: float | None = None
    p_flip: float | None = None
    detectable: float | None = None


def paired(differences: Sequence[float]) -> Paired:
    """Summarize the differences of pairs, at least one."""
    n, mean = len(differences), float(np.mean(differences))
    p_flip = sign_flip_p(differences) if 2 <= n <= EXACT else None
    if n < 2:
        return Paired(n, mean)
    sd = float(np.std(differences, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Paired(
        n,
        mean,
        sd,
        mean - half,
        mean + half,
        t_p(mean, sd, n),
        p_flip,
        detectable_difference(sd, n),
    )


def t_p(mean: float, sd: float, n: int) -> float:
    """Return the two-sided p of the paired t test."""
    if sd == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the exact sign-flip permutation test.

    If arm and control did not differ, each difference could as well have the other sign: p is the
    share of the 2^n choices of signs whose sum is at least as far from 0 as the observed one.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    sums = np.abs(signs @ values)
    slack = 1e-9 * np.abs(values).sum()  # equal sums, added up in another order
    return float(np.mean(sums >= abs(values.sum()) - slack))


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p of each p (Holm 1979): the k-th smallest times (m - k + 1)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def detectable_difference(sd: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the difference that a two-sided paired t test finds with this power.

    Args:
        sd: Standard deviation of the paired differences.
        n: Number of pairs, at least 2.
        power: Probability of p < alpha. Default: 0.8.
        alpha: Level of the test. Default: 0.05.
    """
    limit = stats.t.ppf(1 - alpha / 2, n - 1)

    def missing(shift: float) -> float:
        # The other tail is left out: it changes the sixth digit, and is NaN for large shifts.
        return float(stats.nct.sf(limit, n - 1, shift)) - power

    # At the upper end the power is above 0.999 for every n.
    return float(optimize.brentq(missing, 0.0, 4 * limit + 10)) * sd / math.sqrt(n)
