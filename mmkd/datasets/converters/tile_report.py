from dataclasses import dataclass, field

from mmkd.utils.images import printable
from mmkd.utils.text import align


@dataclass
class TileReport:
    """What a conversion found: counts by split and class, and names of what it could not use."""

    classes: list[str]
    split: str
    patient: str
    tiles: dict[str, list[int]] = field(default_factory=dict)
    patients: dict[str, list[int]] = field(default_factory=dict)
    without_code: int = 0
    unreadable: list[str] = field(default_factory=list)
    unlistable: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    two_classes: list[str] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> list[str]:
        """The files that could not be used."""
        return self.unreadable + self.unlistable

    def table(self) -> str:
        """Return the counts by split and class, and a line for each kind of finding, with names."""
        lines = []
        if self.tiles:
            rows = [['split', 'class', 'tiles', 'patients']]
            for split, tiles in self.tiles.items():
                for name, count, patients in zip(self.classes, tiles, self.patients[split]):
                    rows.append([split, name, str(count), str(patients)])
            lines = [f'split: {self.split}', f'patient: {self.patient}', align(rows)]
        if self.without_code:
            lines.append(
                'no patient code (TCGA-xx-xxxx) in the name, each file counts as its own patient: '
                f'{self.without_code}'
            )
        for what, names in (
            ('unreadable, left out', self.unreadable),
            ('name that no list can hold, left out', self.unlistable),
            ('LEAK: patient in both published splits, kept', self.leaks),
            ('patient with tiles of several classes', self.two_classes),
            ('folder that is none of the classes, not read', self.not_read),
        ):
            if names:
                first = ', '.join(map(printable, names[:20])) + (', ...' if len(names) > 20 else '')
                lines.append(f'{what}: {len(names)}: {first}')
        return '\n'.join([*lines, *(f'WARNING: {text}' for text in self.warnings)])
