"""Text tables."""

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table


def align(rows: Iterable[Sequence[str]], indent: str = '') -> str:
    """Format rows of one length as lines: the first column flush left, the others flush right."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for i, row in enumerate(rows):
        for j in range(0 if i else len(row)):
            table.add_column(justify='right' if j else 'left', no_wrap=True)
        table.add_row(*row)
    text = StringIO()
    Console(file=text, width=10_000, markup=False, highlight=False, emoji=False).print(table)
    return '\n'.join(indent + line.rstrip() for line in text.getvalue().splitlines())
