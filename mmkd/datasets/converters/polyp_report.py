from dataclasses import dataclass, field

from mmkd.utils.images import printable
from mmkd.utils.text import align

from .layouts import Part


@dataclass
class PolypReport:
    """What a conversion found: counts by split, and the names of files it could not use."""

    parts: list[Part] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    negatives: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    unlistable: list[str] = field(default_factory=list)
    other_size: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    dim: list[str] = field(default_factory=list)
    specks_only: list[str] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    in_no_list: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> list[str]:
        """The files that could not be used."""
        return self.unreadable + self.unlistable + self.other_size + self.without_mask

    def table(self) -> str:
        """Return the sets that were found, the counts by split, and a line for each finding."""
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
        lines.append(align(rows))
        for what, names in (
            ('unreadable, left out', self.unreadable),
            ('name that no list can hold, left out', self.unlistable),
            ('mask of another size, left out', self.other_size),
            ('image without mask, left out', self.without_mask),
            ('mask without image', self.without_image),
            ('in no split list, left out', self.in_no_list),
            ('empty mask, kept as negative', self.empty),
            ('no value above half of the scale in the mask, kept as negative', self.dim),
            ('mask of specks alone, kept as negative', self.specks_only),
        ):
            if names:
                first = ', '.join(map(printable, names[:20])) + (', ...' if len(names) > 20 else '')
                lines.append(f'{what}: {len(names)}: {first}')
        return '\n'.join([*lines, *(f'WARNING: {text}' for text in self.warnings)])
