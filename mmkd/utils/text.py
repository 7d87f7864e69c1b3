"""Text tables."""

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

WIDTH = 160  # characters of a line of `align_members` at most


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


def align_members(rows: Sequence[Sequence[str]], indent: str = '') -> str:
    """Format a table with a line for each member; if that is too wide, one for each metric."""
    table = align(rows, indent)
    if table.index('\n') <= WIDTH:
        return table
    first, *others = zip(*rows)
    return align([('metric', *first[1:]), *others], indent)
