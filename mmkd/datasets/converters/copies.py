"""Images that are in several splits, byte for byte."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mmkd.utils.errors import ConfigError
from mmkd.utils.images import printable

from .layouts import Pair
from .polyp_report import PolypReport

PIECE = 4096  # bytes; so much of the middle tells images of one size apart


def without_copies(splits: dict[str, list[Pair]], report: PolypReport) -> dict[str, list[Pair]]:
    """Leave out of training what validation or test has, and of validation what test has.

    Test sets keep all of their images. What is still to be cut (split '') gives way to all
    published splits. Copies within one split, or in two test sets, stay.

    Args:
        splits: Pairs by split.
        report: Gets the images that are left out.

    Raises:
        ConfigError: If nothing is left of a split.
    """
    order = sorted(splits, key=_rank)
    by_rank: dict[int, list[Path]] = defaultdict(list)
    for split in order:
        by_rank[_rank(split)] += [pair.image for pair in splits[split]]
    contents = _in_several(list(by_rank.values()))
    first: dict[bytes, tuple[str, Pair]] = {}  # where a content stays
    kept: dict[str, list[Pair]] = {}
    for split in order:
        kept[split], found = [], []
        for pair in splits[split]:
            content = contents.get(pair.image, b'')
            other, original = first.get(content, (split, pair))
            if _rank(other) < _rank(split):
                found.append(f'{pair.path} (as {original.path} in {other})')
                continue
            kept[split].append(pair)
            if content:
                first.setdefault(content, (split, pair))
        if split and found and not kept[split]:
            raise ConfigError(
                f'split {split!r}: other splits have each of its {len(found)} images, byte for '
                f'byte: {", ".join(map(printable, found[:3]))}{", ..." * (len(found) > 3)}; remove '
                'the copies, or use --one-split NAME'
            )
        report.copies += found
    return {split: kept[split] for split in splits}


def _rank(split: str) -> int:
    if split.startswith('test'):
        return 0
    return {'val': 1, 'train': 2, '': 3}[split]


def _in_several(groups: Sequence[Sequence[Path]]) -> dict[Path, bytes]:
    """Return the digest of each file whose content is in several groups.

    Read as a whole are only files whose size and middle are in several, so that large sets cost no
    second reading.
    """
    left = {path: i for i, group in enumerate(groups) for path in group}
    keys: dict[Path, bytes] = {}
    for key in (_size, _middle, _digest):
        keys, found = {}, defaultdict(set)
        for path, group in left.items():
            try:
                keys[path] = key(path)
            except OSError:
                continue  # the writer reports it as unreadable
            found[keys[path]].add(group)
        # An empty file is no image.
        keys = {path: k for path, k in keys.items() if k and len(found[k]) > 1}
        left = {path: left[path] for path in keys}
    return keys


def _size(path: Path) -> bytes:
    size = path.stat().st_size
    return str(size).encode() if size else b''


def _middle(path: Path) -> bytes:
    with path.open('rb') as file:
        file.seek(path.stat().st_size // 2)
        return hashlib.sha256(file.read(PIECE)).digest()


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
