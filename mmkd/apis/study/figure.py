"""A study's picture as SVG: each seed a line over the arms, and the gains with their intervals."""

import math
from collections.abc import Sequence
from html import escape

from mmkd.apis.study.summary import Row, Summary, mean_sd

WIDTH, LEFT, RIGHT, TOP, HEIGHT = 720, 70, 20, 20, 260
ROW = 30
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#666666', '#b8a500')


def draw(summary: Summary) -> str:
    """Return the picture: above the primary figure by arm, below the gains over the controls."""
    rows = [row for row in [*summary.planned, *summary.exploratory] if row.paired is not None]
    total = TOP + HEIGHT + 50 + (40 + ROW * len(rows) + 30 if rows else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" '
        f'width="{WIDTH}" height="{total}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{total}" fill="#fff"/>',
        *_strips(summary),
        *(_gains(summary, rows, TOP + HEIGHT + 90) if rows else []),
        '</svg>',
    ]
    return '\n'.join(parts) + '\n'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers from at or below `low` to at or above `high`."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _strips(summary: Summary) -> list[str]:
    plan = summary.plan
    values = [v for figures in summary.figures.values() for v in figures.values()]
    if not values:
        return []
    marks = ticks(min(values), max(values))

    def y(value: float) -> float:
        return TOP + HEIGHT - HEIGHT * (value - marks[0]) / (marks[-1] - marks[0])

    step = (WIDTH - LEFT - RIGHT) / len(plan.arms)
    x = {arm: LEFT + step * (i + 0.5) for i, arm in enumerate(plan.arms)}
    parts = []
    for mark in marks:
        parts.append(_line(LEFT, y(mark), WIDTH - RIGHT, y(mark), '#e5e5e5'))
        parts.append(_text(LEFT - 8, y(mark) + 4, f'{mark:g}', 'end'))
    parts.append(_text(LEFT, TOP - 6, plan.metric, 'start'))
    for i, seed in enumerate(plan.seeds):
        color = COLORS[i % len(COLORS)]
        points = [
            (x[arm], y(summary.figures[arm][seed]), summary.figures[arm][seed], arm)
            for arm in plan.arms
            if seed in summary.figures[arm]
        ]
        path = ' '.join(f'{px:.1f},{py:.1f}' for px, py, _, _ in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-opacity=".45"/>'
        )
        for px, py, value, arm in points:
            title = escape(f'{arm}, seed {seed}: {value:.4g}')
            parts.append(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{color}">'
                f'<title>{title}</title></circle>'
            )
    for i, arm in enumerate(plan.arms):
        mean, _ = mean_sd(list(summary.figures[arm].values()))
        if mean is not None:
            half = min(28.0, step / 3)
            parts.append(_line(x[arm] - half, y(mean), x[arm] + half, y(mean), '#000', 2))
        # Every other name one line lower, so that long ones do not meet.
        parts.append(_text(x[arm], TOP + HEIGHT + 18 + 16 * (i % 2), arm, 'middle'))
    return parts


def _gains(summary: Summary, rows: Sequence[Row], top: float) -> list[str]:
    left = LEFT + 270
    ends = [0.0]
    for row in rows:
        if row.paired is not None:
            ends += [row.paired.mean, *row.gains.values()]
            ends += [v for v in (row.paired.low, row.paired.high) if v is not None]
        if row.comparison.at_least is not None:
            ends.append(row.comparison.at_least)
    marks = ticks(min(ends), max(ends))

    def x(value: float) -> float:
        return left + (WIDTH - RIGHT - left) * (value - marks[0]) / (marks[-1] - marks[0])

    bottom = top + ROW * len(rows)
    parts = [_text(LEFT - 50, top - 10, 'gain, 95 % interval (red: target)', 'start')]
    for mark in marks:
        color = '#999' if mark == 0 else '#e5e5e5'
        parts.append(_line(x(mark), top, x(mark), bottom, color))
        parts.append(_text(x(mark), bottom + 16, f'{mark:g}', 'middle'))
    for i, row in enumerate(rows):
        middle = top + ROW * (i + 0.5)
        parts.append(_text(left - 10, middle + 4, row.name(summary.plan), 'end'))
        for gain in row.gains.values():
            parts.append(
                f'<circle cx="{x(gain):.1f}" cy="{middle:.1f}" r="2.5" fill="#0072b2" '
                'fill-opacity=".5"/>'
            )
        found = row.paired
        if found is not None and found.low is not None and found.high is not None:
            parts.append(_line(x(found.low), middle, x(found.high), middle, '#000', 2))
        if found is not None:
            parts.append(
                f'<rect x="{x(found.mean) - 4:.1f}" y="{middle - 4:.1f}" width="8" height="8"/>'
            )
        target = row.comparison.at_least
        if target is not None:
            parts.append(_line(x(target), middle - 10, x(target), middle + 10, '#c00', 2))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: int = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{color}" stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
