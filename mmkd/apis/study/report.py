"""A study's report: Markdown, and one HTML page that needs no other file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from mmkd.apis.study.figure import draw
from mmkd.apis.study.plan import Plan
from mmkd.apis.study.results import metric_keys, write_text
from mmkd.apis.study.statistics import EXACT, Paired
from mmkd.apis.study.summary import (
    Row,
    Summary,
    counts_all_cases,
    frozen_differ,
    mean_sd,
    summarize,
)

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;
color:#222;background:#fff}
table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}
th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}.note{background:#fff3cd;padding:.5em 1em}
svg{max-width:100%;height:auto}"""


@dataclass(frozen=True)
class Block:
    """A part of the report: h1, h2, p, note, list (a row for each item), table, figure."""

    kind: str
    text: str = ''
    rows: list[list[str]] = field(default_factory=list)


def write_report(plan: Plan, keep_stale: bool = False) -> list[Path]:
    """Write `report.md`, `report.html` and `figure.svg` beside the results.

    Args:
        plan: The plan.
        keep_stale: Use results of another config as well; the report says so.

    Raises:
        ConfigError: If there are no results, or one lacks the primary metric. Nothing is written.
    """
    summary = summarize(plan, keep_stale)
    blocks, svg = report_blocks(summary), draw(summary)
    texts = {
        'report.md': to_markdown(blocks),
        'report.html': to_html(blocks, svg, plan.title),
        'figure.svg': svg,
    }
    paths = []
    for name, text in texts.items():
        paths.append(plan.folder / name)
        write_text(paths[-1], text)
    return paths


def report_blocks(summary: Summary) -> list[Block]:
    """Return the report's content."""
    plan, unit = summary.plan, _decimals(summary)
    members = ', '.join(plan.members)
    figure = f'{plan.metric}, mean over {members}' if members else plan.metric
    direction = 'higher' if plan.higher_is_better else 'lower'
    blocks = [
        Block('h1', plan.title),
        *(Block('note', text) for text in _notes(summary)),
        Block('p', f'Primary figure: {figure} ({direction} is better), at the last validation.'),
        Block('p', f'Hypotheses: {plan.hypotheses}'),
        Block('h2', 'Arms'),
        Block('table', rows=_arm_table(summary, unit)),
        Block(
            'p',
            'Mean ± standard deviation over seeds. Minutes: what a run took, beside others.',
        ),
        Block('h2', 'Planned comparisons'),
        Block('table', rows=_comparison_table(summary, summary.planned, unit)),
        Block('p', _how(summary)),
    ]
    targets = [row for row in summary.planned if row.comparison.at_least is not None]
    if targets:
        items = [[_target(row, summary, unit)] for row in targets]
        rule = (
            'Met: the mean reaches the target and the interval lies above 0; for a target of 0 or '
            'less, the interval lies above it.'
        )
        blocks += [Block('h2', 'Targets'), Block('p', rule), Block('list', rows=items)]
    if summary.exploratory:
        blocks += [
            Block('h2', 'Other arms against the control'),
            Block('p', 'Not planned as comparisons, not adjusted: they prove nothing.'),
            Block('table', rows=_comparison_table(summary, summary.exploratory, unit)),
        ]
    blocks += [
        Block('h2', 'Runs'),
        Block('figure', 'Each line is a seed, each bar a mean; below, gains and their intervals'),
        Block('table', rows=_seed_table(summary, unit)),
    ]
    for metric in plan.metrics:
        blocks += [
            Block('h2', f'Also measured: {metric}'),
            Block('table', rows=_metric_table(summary, metric)),
        ]
    return [
        *blocks,
        Block('h2', 'Controls'),
        Block('list', rows=[[text] for text in _controls(plan)]),
        Block('h2', 'How it was made'),
        Block('list', rows=[[text] for text in _provenance(summary)]),
    ]


def to_markdown(blocks: Sequence[Block]) -> str:
    """Render the report's blocks as Markdown."""
    parts = []
    for block in blocks:
        if block.kind == 'table':
            head, *rows = [[cell.replace('|', '\\|') for cell in row] for row in block.rows]
            rule = ['---', *['--:'] * (len(head) - 1)]
            parts.append('\n'.join('| ' + ' | '.join(row) + ' |' for row in [head, rule, *rows]))
        elif block.kind == 'list':
            parts.append('\n'.join(f'- {row[0]}' for row in block.rows))
        elif block.kind == 'figure':
            parts.append(f'![{block.text}](figure.svg)')
        else:
            mark = dict(h1='# ', h2='## ', note='> **Note:** ', p='')[block.kind]
            parts.append(f'{mark}{block.text}')
    return '\n\n'.join(parts) + '\n'


def to_html(blocks: Sequence[Block], svg: str, title: str) -> str:
    """Render the report's blocks as one page: no script, no font, no picture from elsewhere."""
    body = '\n'.join(_html(block, svg) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n{body}\n</body>\n</html>\n'
    )


def _html(block: Block, svg: str) -> str:
    if block.kind == 'table':
        tags = ['th', *['td'] * (len(block.rows) - 1)]
        rows = [
            '<tr>' + ''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row) + '</tr>'
            for tag, row in zip(tags, block.rows)
        ]
        return '<table>\n' + '\n'.join(rows) + '\n</table>'
    if block.kind == 'list':
        return '<ul>\n' + '\n'.join(f'<li>{escape(row[0])}</li>' for row in block.rows) + '\n</ul>'
    text = escape(block.text)
    if block.kind == 'figure':
        return f'<figure>{svg}<figcaption>{text}</figcaption></figure>'
    if block.kind == 'note':
        return f'<p class="note">{text}</p>'
    return f'<{block.kind}>{text}</{block.kind}>'


def _notes(summary: Summary) -> list[str]:
    """What a reader must know before any figure."""
    plan, notes = summary.plan, []
    if plan.trial:
        notes.append('A trial: its plan need not be committed, its figures prove nothing.')
    if summary.missing:
        counts = Counter(arm for arm, _ in summary.missing)
        n = len(plan.seeds)
        listed = ', '.join(f'{arm}: {n - c} of {n} seeds done' for arm, c in counts.items())
        notes.append(f'The study is not complete. {listed}.')
    if summary.left_out:
        notes.append(
            f'{_runs(summary.left_out)}: results of another config than the plan has now, left out.'
        )
    if summary.other_plan:
        notes.append(
            'The plan or the config was changed after these results were made: '
            f'{_runs(summary.other_plan)}.'
        )
    for (arm, seed), keys in summary.diverged.items():
        notes.append(
            f'{arm} seed {seed} has no number as {", ".join(keys)}: it has no part in the means '
            'and gains of these figures.'
        )
    changed = [
        run
        for run, result in summary.results.items()
        if any(commit.endswith('+changes') for commit in result['commits'])
    ]
    if changed:
        notes.append(f'Sources that are in no commit ("+changes"): {_runs(changed)}.')
    for member, path in frozen_differ(summary):
        notes.append(f'The frozen {member!r} of {path} was not the same in all runs.')
    return notes


def _runs(runs: Sequence[tuple[str, int]] | dict) -> str:
    return ', '.join(f'{arm} seed {seed}' for arm, seed in runs)


def _arm_table(summary: Summary, unit: int) -> list[list[str]]:
    plan = summary.plan
    owners = summary.owners(plan.metric) if plan.members else []
    rows = [['arm', 'n', 'primary figure', *owners, 'minutes', 'iterations', 'parameters']]
    for arm in plan.arms:
        runs = [summary.results[key] for key in summary.results if key[0] == arm]
        iterations = sorted({run['iterations'] for run in runs})
        parameters = runs[0]['parameters'] if runs else {}
        rows.append(
            [
                arm + (' (control)' if arm == plan.control else ''),
                f'{summary.done(arm)} of {len(plan.seeds)}',
                _spread(list(summary.figures[arm].values()), unit),
                *(_spread(summary.values(arm, f'{o}/{plan.metric}'), unit) for o in owners),
                _spread([run['minutes'] for run in runs], 1),
                ' or '.join(f'{i}' for i in iterations) or '-',
                ', '.join(f'{k} {_large(v)}' for k, v in parameters.items()) or '-',
            ]
        )
    return rows


def _comparison_table(summary: Summary, rows: Sequence[Row], unit: int) -> list[list[str]]:
    table = [
        [
            'gain',
            'pairs',
            'mean',
            '95 % interval',
            'p (sign flips)',
            'p (t)',
            'p (Holm)',
            'could find',
        ]
    ]
    for row in rows:
        found = row.paired
        if found is None:
            table.append([row.name(summary.plan), '0', *['-'] * 6])
            continue
        table.append(
            [
                row.name(summary.plan),
                str(found.n),
                f'{found.mean:+.{unit}f}',
                _interval(found, unit),
                _p(found.p_flip),
                _p(found.p_t),
                _p(row.p_holm),
                '-' if found.detectable is None else f'{found.detectable:.{unit}f}',
            ]
        )
    return table


def _interval(found: Paired | None, unit: int) -> str:
    if found is None or found.low is None or found.high is None:
        return '-'
    return f'{found.low:+.{unit}f} to {found.high:+.{unit}f}'


def _how(summary: Summary) -> str:
    plan = summary.plan
    pairs = sorted({len(row.gains) for row in summary.planned})
    exact = counts_all_cases(summary.planned, plan.test)
    test = 'the exact sign-flip test' if exact else 'the paired t test'
    text = (
        "Pairs are runs of one seed. Intervals and p (t) are those of Student's t over the paired "
        'differences, not adjusted. They cover what a seed changes, on the images at hand: other '
        f"images are not covered. Holm's p is of {test} over all planned comparisons. 'Could "
        "find' is the gain that a t test of this n finds with a power of 80 % at 5 %, two-sided, "
        'not adjusted, estimated from the spread of these differences.'
    )
    limits = [f'{n} pairs p (sign flips) cannot be below {2 / 2**n:.4g}' for n in pairs if n > 1]
    if limits and pairs[-1] <= EXACT:
        text += f' With {", with ".join(limits)}.'
    return text


def _target(row: Row, summary: Summary, unit: int) -> str:
    plan, compared = summary.plan, row.comparison
    sides = (compared.arm, compared.members), (compared.control, compared.control_members)
    needed: dict[str, set[str]] = {}
    for arm, members in sides:  # which may be one arm
        needed.setdefault(arm, set()).update(metric_keys(members, plan.metric))
    lost = {seed for (arm, seed), k in summary.diverged.items() if needed.get(arm, set()) & set(k)}
    target = row.comparison.at_least or 0.0
    asked = f'at least {target:+g}' if target > 0 else f'no worse than {target:+g}'
    verdict = row.verdict(len(plan.seeds), len(lost))
    interval = _interval(row.paired, unit)
    got = f' (measured {row.paired.mean:+.{unit}f}, {interval})' if row.paired else ''
    text = f' {row.comparison.text}' if row.comparison.text else ''
    return f'{verdict}: {row.name(plan)}, {asked}{got}.{text}'


def _seed_table(summary: Summary, unit: int) -> list[list[str]]:
    plan = summary.plan
    rows = [['seed', *plan.arms]]
    for seed in plan.seeds:
        cells = [summary.figures[arm].get(seed) for arm in plan.arms]
        rows.append([str(seed), *('-' if c is None else f'{c:.{unit}f}' for c in cells)])
    return rows


def _metric_table(summary: Summary, metric: str) -> list[list[str]]:
    owners = summary.owners(metric)
    keys = [f'{owner}/{metric}' for owner in owners] or [metric]
    rows = [['arm', *(owners or [metric])]]
    for arm in summary.plan.arms:
        values = [summary.values(arm, key) for key in keys]
        rows.append([arm, *(_spread(v, _digits([x for w in values for x in w])) for v in values)])
    return rows


def _controls(plan: Plan) -> list[str]:
    texts = {plan.control: 'the control', **plan.controls}
    return [f'{name}: {text}' for name, text in texts.items()]


def _provenance(summary: Summary) -> list[str]:
    plan, results = summary.plan, list(summary.results.values())
    plans = sorted({result['plan_hash'] for result in results} | {plan.hash})
    commits = sorted({commit or 'unknown' for result in results for commit in result['commits']})
    versions = Counter(
        ', '.join(f'{name} {version}' for name, version in sorted(result['versions'].items()))
        for result in results
    )
    minutes = sum(result['minutes'] for result in results)
    items = [
        f'config {plan.config}, seeds {", ".join(map(str, plan.seeds))}',
        f'plan {", ".join(h[:12] for h in plans)} (blob in git), commit of the sources '
        + ', '.join(commit[:12] + '+changes' * commit.endswith('+changes') for commit in commits),
        f'mmkd {", ".join(sorted({result["mmkd"] for result in results}))}',
        *(f'{text} ({count} runs)' for text, count in versions.items()),
        f'cost: {minutes:.0f} minutes of training in {len(results)} runs'
        + (f'; budget: {plan.budget}' if plan.budget else ''),
    ]
    if plan.seed_keys:
        items.append(f'set to the seed as well: {", ".join(plan.seed_keys)}')
    return items


def _decimals(summary: Summary) -> int:
    return _digits([v for figures in summary.figures.values() for v in figures.values()])


def _digits(values: Sequence[float]) -> int:
    """Fractions such as COCO's mAP get four decimals, percentages two."""
    return 4 if values and max(map(abs, values)) <= 1.5 else 2


def _spread(values: Sequence[float], digits: int) -> str:
    mean, sd = mean_sd(values)
    if mean is None:
        return '-'
    return f'{mean:.{digits}f}' + ('' if sd is None else f' ± {sd:.{digits}f}')


def _p(value: float | None) -> str:
    if value is None:
        return '-'
    return '< 0.0001' if value < 1e-4 else f'{value:.4f}'


def _large(count: int) -> str:
    return f'{count / 1e6:.2f} M' if count >= 1e5 else str(count)
