"""What a study's results say: figures by arm and seed, planned comparisons, targets."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmkd.apis.study.plan import Comparison, Plan
from mmkd.apis.study.results import (
    check_arms,
    expected_metrics,
    is_stale,
    metric_keys,
    read_results,
    run_config,
)
from mmkd.apis.study.statistics import EXACT, Paired, holm, paired
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """A comparison and what came out. Gains are differences, turned so that more is better."""

    comparison: Comparison
    gains: dict[int, float]  # by seed
    paired: Paired | None  # None without a pair
    p_holm: float | None = None

    def name(self, plan: Plan) -> str:
        """Name the arms, and the members where they are not those of the primary figure."""
        c = self.comparison
        own, other = (
            '' if members == plan.members_of(arm) else f' [{", ".join(members)}]'
            for arm, members in ((c.arm, c.members), (c.control, c.control_members))
        )
        return f'{c.arm}{"" if own == other else own} over {c.control}{other}'

    def verdict(self, seeds: int, diverged: int = 0) -> str:
        """Say whether the target is met: 'met', 'missed', 'open (3 of 5 seeds)' or ''.

        A gain that is asked for must be reached by the mean, and the 95 % interval must lie above
        0. A target of 0 or less says 'no worse than by so much': the interval must lie above it.

        Args:
            seeds: Number of pairs that the plan has.
            diverged: Number of seeds for which one of both runs has no number: with one the target
                is missed.
        """
        target = self.comparison.at_least
        if target is None:
            return ''
        if diverged:
            return f'missed ({diverged} of {seeds} seeds without a number)'
        if self.paired is None or self.paired.n < seeds:
            return f'open ({self.paired.n if self.paired else 0} of {seeds} seeds)'
        if self.paired.low is None:
            return 'open (one seed tells nothing of the spread)'
        met = (
            self.paired.mean >= target and self.paired.low > 0
            if target > 0
            else self.paired.low > target
        )
        return 'met' if met else 'missed'


@dataclass(frozen=True)
class Summary:
    """All figures of a study's report."""

    plan: Plan
    results: dict[tuple[str, int], dict]
    left_out: dict[tuple[str, int], str]  # stale results, and what they differ in
    other_plan: list[tuple[str, int]]  # results in use that were made under another plan
    figures: dict[str, dict[int, float]]  # the primary figure by arm and seed
    diverged: dict[tuple[str, int], list[str]]  # what a comparison needs and is no number
    planned: list[Row]
    exploratory: list[Row]

    def done(self, arm: str) -> int:
        """Count the seeds of an arm whose result is there."""
        return sum((arm, seed) in self.results for seed in self.plan.seeds)

    @property
    def missing(self) -> list[tuple[str, int]]:
        """The runs without a result."""
        runs = [(arm, seed) for arm in self.plan.arms for seed in self.plan.seeds]
        return [run for run in runs if run not in self.results]

    def values(self, arm: str, key: str) -> list[float]:
        """Return one metric of an arm by seed, e.g. `student1/polyp/dice`."""
        found = [
            self.results[arm, seed]['metrics'].get(key)
            for seed in self.plan.seeds
            if (arm, seed) in self.results
        ]
        return [value for value in found if value is not None]

    def owners(self, metric: str) -> list[str]:
        """Return what a metric was measured for, members of the primary figure first."""
        first = list(self.plan.members)
        found = {
            key[: -len(metric) - 1]
            for result in self.results.values()
            for key in result['metrics']
            if key.endswith(f'/{metric}')
        }
        return [m for m in first if m in found] + sorted(found - set(first))


def summarize(plan: Plan, keep_stale: bool = False) -> Summary:
    """Read a plan's results and compute what the report shows.

    Args:
        plan: The plan.
        keep_stale: Use results of another config as well.

    Raises:
        ConfigError: If there is no result in use, or one lacks a metric of the plan.
    """
    hashes = check_arms(plan)
    results, left_out, other_plan = {}, {}, []
    for run, result in read_results(plan).items():
        what = is_stale(plan, result, hashes[run])
        if what == 'config' and not (keep_stale or plan.trial):
            left_out[run] = what
            continue
        if what and not plan.trial:
            other_plan.append(run)
        results[run] = result
    if not results:
        raise ConfigError(
            f'{plan.folder / "results"}: no results of this plan'
            + (f' ({len(left_out)} of another config)' if left_out else '')
        )
    for (arm, seed), result in results.items():
        for key in expected_metrics(plan, arm):
            choose(key, result['metrics'], f'primary.metric: the result of {arm}, seed {seed}')
    figures = {arm: _by_seed(plan, results, arm, plan.members_of(arm)) for arm in plan.arms}
    diverged = {
        run: names
        for run, result in results.items()
        if (names := [k for k in expected_metrics(plan, run[0]) if result['metrics'][k] is None])
    }
    planned = [_compare(plan, results, c) for c in plan.comparisons]
    all_arms = [
        Comparison(arm, plan.control, plan.members_of(arm), plan.members_of(plan.control))
        for arm in plan.arms
        if arm != plan.control
    ]
    exploratory = [c for c in all_arms if not any(c.same_as(p) for p in plan.comparisons)]
    return Summary(
        plan=plan,
        results=results,
        left_out=left_out,
        other_plan=other_plan,
        figures=figures,
        diverged=diverged,
        planned=_adjust(planned, plan.test),
        exploratory=[_compare(plan, results, c) for c in exploratory],
    )


def frozen_differ(summary: Summary) -> list[tuple[str, str]]:
    """Return frozen members, and their checkpoints, that had different weights in several runs.

    Results of before digests were noted tell nothing.
    """
    digests: dict[tuple[str, str], set[str]] = {}
    for (arm, seed), result in summary.results.items():
        for name, digest in (result.get('frozen') or {}).items():
            # A result that is kept as stale may have members that the config no longer has.
            member = run_config(summary.plan, arm, seed).model.members.get(name)
            if member and member.get('checkpoint'):
                digests.setdefault((name, member['checkpoint']), set()).add(digest)
    return [place for place, found in digests.items() if len(found) > 1]


def counts_all_cases(rows: Sequence[Row], test: str) -> bool:
    """Return whether the p of the planned rows are those of sign flips; else of the t test.

    One test for all: where one row has too many pairs to count all cases, all have the t test's.
    """
    return test == 'permutation' and all(len(row.gains) <= EXACT for row in rows)


def mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation, None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def _by_seed(
    plan: Plan, results: dict[tuple[str, int], dict], arm: str, members: tuple[str, ...]
) -> dict[int, float]:
    """Return the mean over members by seed; seeds where one is not a number are left out."""
    figures = {}
    for seed in plan.seeds:
        if (arm, seed) not in results:
            continue
        metrics = results[arm, seed]['metrics']
        values = []
        for key in metric_keys(members, plan.metric):
            values.append(math.nan if metrics[key] is None else metrics[key])
        if all(math.isfinite(value) for value in values):
            figures[seed] = statistics.fmean(values)
    return figures


def _compare(plan: Plan, results: dict[tuple[str, int], dict], comparison: Comparison) -> Row:
    own = _by_seed(plan, results, comparison.arm, comparison.members)
    other = _by_seed(plan, results, comparison.control, comparison.control_members)
    sign = 1 if plan.higher_is_better else -1
    gains = {seed: sign * (own[seed] - other[seed]) for seed in own if seed in other}
    return Row(comparison, gains, paired(list(gains.values())) if gains else None)


def _adjust(rows: list[Row], test: str) -> list[Row]:
    """Fill in Holm's p over the planned comparisons, once each of them has a p."""
    exact = counts_all_cases(rows, test)
    found = [row.paired for row in rows]
    ps = [None if p is None else p.p_flip if exact else p.p_t for p in found]
    if any(p is None for p in ps):
        return rows
    adjusted = holm([p for p in ps if p is not None])
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted)]
