from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from mmkd.utils.text import align

from .report import ConversionReport


@dataclass
class TileReport(ConversionReport):
    """What a conversion of tiles found: counts by split and class, and what tells of patients."""

    classes: list[str]
    split: str
    patient: str
    tiles: dict[str, list[int]] = field(default_factory=dict)
    patients: dict[str, list[int]] = field(default_factory=dict)
    without_code: int = 0
    leaks: list[str] = field(default_factory=list)
    two_classes: list[str] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)

    @override
    def counts(self) -> list[str]:
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
        return lines

    @override
    def findings(self) -> list[tuple[str, Sequence[str]]]:
        return [
            *super().findings(),
            ('LEAK: patient in both published splits, kept', self.leaks),
            ('patient with tiles of several classes', self.two_classes),
            ('folder that is none of the classes, not read', self.not_read),
        ]
