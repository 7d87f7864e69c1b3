from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from mmkd.utils.images import printable
from mmkd.utils.text import align

from .layouts import Part
from .report import ConversionReport


@dataclass
class PolypReport(ConversionReport):
    """What a conversion of polyp sets found: the sets, and counts by split."""

    parts: list[Part] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    negatives: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    other_size: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    dim: list[str] = field(default_factory=list)
    specks_only: list[str] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    in_no_list: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    in_no_set: list[str] = field(default_factory=list)
    sequence_tables: list[str] = field(default_factory=list)
    unused_boxes: list[str] = field(default_factory=list)

    @property
    @override
    def left_out(self) -> list[str]:
        return super().left_out + self.other_size + self.without_mask

    @override
    def counts(self) -> list[str]:
        lines = []
        if self.parts:
            rows = [['set', 'published as', 'pairs']]
            rows += [[printable(p.name), p.split or '-', str(p.pairs)] for p in self.parts]
            lines += [align(rows), '']
        rows = [['split', 'images', 'boxes', 'without polyp']]
        if self.sequences:
            rows[0].append('sequences')
        for split in self.images:
            counts = [self.images[split], self.boxes[split], self.negatives[split]]
            row = [split, *map(str, counts)]
            if self.sequences:
                row.append(str(self.sequences.get(split, '-')))
            rows.append(row)
        return [*lines, align(rows)]

    @override
    def findings(self) -> list[tuple[str, Sequence[str]]]:
        return [
            *super().findings(),
            ('mask of another size, left out', self.other_size),
            ('image without mask, left out', self.without_mask),
            ('mask without image', self.without_image),
            ('in no split list, left out', self.in_no_list),
            ('copy of an image in another split, byte for byte, left out', self.copies),
            ('empty mask, kept as negative', self.empty),
            ('no value above half of the scale in the mask, kept as negative', self.dim),
            ('mask of specks alone, kept as negative', self.specks_only),
            ("for test by FOLDER's own name", self.held_out),
            ('folder of images in no set (no masks beside it), ignored', self.in_no_set),
            ('file of boxes, not used without --boxes', self.unused_boxes),
            (
                'sequences kept together in the random cut, as listed in',
                self.sequence_tables if self.sequences else [],
            ),
        ]
