"""Several test sets in one evaluation: what samples and figures are called, and their tables."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

from .text import align

# In the meta information of a sample: the name of its set, and its number among all images.
SET, NUMBER = 'test_set', 'test_number'
# What stands before the name of a figure over several sets.
SEEN, UNSEEN, GAP = 'seen', 'unseen', 'gap'


def gap_tables(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Format what `mmkd.SeenUnseenEvaluator` measured: a table for each figure.

    Args:
        metrics: By member the figures `<set>/<figure>`, and `seen/...`, `unseen/...`, `gap/...`.

    Returns:
        The tables with a row for each member and a column for each set; '' without such figures.
    """
    keys = dict.fromkeys(key for values in metrics.values() for key in values)
    tables = []
    for figure in [key.partition('/')[2] for key in keys if key.startswith(f'{GAP}/')]:
        columns = [key[: -len(figure) - 1] for key in keys if key.endswith(f'/{figure}')]
        # A figure's name may end as another one's does: `coco/f1` and `f1`.
        columns = [name for name in columns if '/' not in name]
        rows = [[figure, *columns]]
        rows += [
            [member, *(_cell(values.get(f'{column}/{figure}')) for column in columns)]
            for member, values in metrics.items()
        ]
        tables.append(align(rows, '  '))
    return '\n\n'.join(tables)


def _cell(value: Any) -> str:
    return f'{value:.3f}' if isinstance(value, Real) else '-'
