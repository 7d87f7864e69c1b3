from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmkd.utils.images import printable


@dataclass(kw_only=True)
class ConversionReport:
    """What a conversion found: counts, and the names of files it could not use.

    Args:
        unreadable: Files that are no whole image.
        unlistable: Files whose name no list can hold.
        warnings: Whole sentences.
    """

    unreadable: list[str] = field(default_factory=list)
    unlistable: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> list[str]:
        """The files that could not be used."""
        return self.unreadable + self.unlistable

    def counts(self) -> list[str]:
        """Return the tables of what was written, as lines."""
        return []

    def findings(self) -> list[tuple[str, Sequence[str]]]:
        """Return each kind of finding with the names it is about."""
        return [
            ('unreadable, left out', self.unreadable),
            ('name that no list can hold, left out', self.unlistable),
        ]

    def table(self) -> str:
        """Return the counts, a line for each kind of finding, with names, and the warnings."""
        lines = self.counts()
        for what, names in self.findings():
            if names:
                first = ', '.join(map(printable, names[:20])) + (', ...' if len(names) > 20 else '')
                lines.append(f'{what}: {len(names)}: {first}')
        return '\n'.join([*lines, *(f'WARNING: {text}' for text in self.warnings)])
