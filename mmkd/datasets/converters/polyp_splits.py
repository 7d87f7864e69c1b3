"""Which pairs of images and masks are for training, validation and test."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmkd.datasets.errors import MissingData
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import printable

from .copies import without_copies
from .groups import cut_groups, groups_of, numbered, stem_of
from .layouts import Pair
from .polyp_options import SPLITS, PolypOptions
from .polyp_report import PolypReport


def share_out(
    pairs: list[Pair], options: PolypOptions, report: PolypReport
) -> dict[str, list[Pair]]:
    """Share the pairs out: by lists, into one split, as published, or at random.

    No image is in two splits, see `without_copies`.
    """
    if options.splits:
        by_name = {pair.name: pair for pair in pairs}
        if len(by_name) < len(pairs):
            raise ConfigError('--split: names in several of the published sets are the same')
        names = read_splits(options.splits, [*by_name, *map(stem_of, report.without_mask)])
        listed = {name for split in names.values() for name in split}
        report.in_no_list = [pair.image.name for pair in pairs if pair.name not in listed]
        listed_pairs = {
            split: [by_name[name] for name in members if name in by_name]
            for split, members in names.items()
        }
        return without_copies(listed_pairs, report)
    if options.one_split:
        return {options.one_split: pairs}
    published: dict[str, list[Pair]] = {}
    for pair in pairs:
        published.setdefault(pair.split, []).append(pair)
    # Before the cut, so that its shares are those of what is left.
    published = without_copies(published, report)
    free = published.pop('', [])
    if published and not free and 'val' not in published and options.train_ratio is not None:
        free = published.pop('train', [])
    if free:
        drawn = without_copies(_random_cut(free, options, report), report)
        published = {
            split: [*published.get(split, []), *drawn.get(split, [])]
            for split in dict.fromkeys([*drawn, *published])
        }
    return published


def _random_cut(
    pairs: list[Pair], options: PolypOptions, report: PolypReport
) -> dict[str, list[Pair]]:
    ratio = 0.9 if options.train_ratio is None else options.train_ratio
    generator = np.random.default_rng(options.seed)
    known = {pair.sequence for pair in pairs} - {''}
    if options.sequence is None:
        _warn_of_neighbors(pairs, report)
    if options.sequence is None and not known:
        order = generator.permutation(len(pairs))
        train = set(order[: round(len(pairs) * ratio)].tolist())
        return dict(
            train=[pair for i, pair in enumerate(pairs) if i in train],
            val=[pair for i, pair in enumerate(pairs) if i not in train],
        )
    if options.sequence is None:  # an image of no known sequence is for itself
        groups = [pair.sequence or str(i) for i, pair in enumerate(pairs)]
    else:
        groups = groups_of([pair.path for pair in pairs], options.sequence, '--sequence')
        known = set(groups)
    sizes = dict(sorted(Counter(groups).items()))
    if options.sequence is not None and len(sizes) < 2:
        raise ConfigError(
            f'--sequence {options.sequence}: a random cut takes two sequences at least, got '
            f'{len(sizes)}'
        )
    chosen = cut_groups(sizes, ratio, generator)
    report.sequences = dict(train=len(known & chosen), val=len(known - chosen))
    if options.sequence is not None and len(sizes) == len(pairs):
        report.warnings.append(
            f'--sequence {options.sequence}: every image is a sequence of its own; the cut is by '
            'image'
        )
    return dict(
        train=[pair for pair, group in zip(pairs, groups) if group in chosen],
        val=[pair for pair, group in zip(pairs, groups) if group not in chosen],
    )


def _warn_of_neighbors(pairs: list[Pair], report: PolypReport) -> None:
    """Warn of each set with frames of videos, as their names tell, and no known sequences."""
    names: dict[str, list[str]] = {}
    for pair in pairs:
        if not pair.sequence:
            names.setdefault(pair.part, []).append(pair.name)
    found = {part: numbered(members) for part, members in names.items()}
    listed = [
        f'{n} names' + (f' in {printable(part)}' if part else '') for part, n in found.items() if n
    ]
    if listed:
        more = f' and names in {len(listed) - 5} other sets' if len(listed) > 5 else ''
        report.warnings.append(
            f'{", ".join(listed[:5])}{more} are numbered like frames of videos, and the random cut '
            'takes no account of sequences: neighbors, which look alike, may be in train and in '
            'val, and what is measured is too good. Use --sequence folder|REGEX|FILE.csv:COLUMN, '
            'or lists (--split)'
        )


def read_splits(lists: Mapping[str, str | Path], names: Sequence[str]) -> dict[str, list[str]]:
    """Read split lists (a file stem per line; a suffix is ignored).

    Args:
        lists: Path of the list by split (`train`, `val`, `test`).
        names: All known stems.

    Raises:
        MissingData: If a list is missing.
        ConfigError: For unknown splits, unknown stems, empty lists, and stems in two splits or
            twice in one.
    """
    known = set(names)
    seen: dict[str, str] = {}
    splits: dict[str, list[str]] = {}
    for split, path in lists.items():
        choose(split, SPLITS, '--split')
        if not Path(path).is_file():
            raise MissingData(f'--split {split}: no file {str(path)!r} (from {Path.cwd()})')
        lines = Path(path).read_text(encoding='utf-8-sig', errors='replace').splitlines()
        listed = [unicodedata.normalize('NFC', line.strip()) for line in lines if line.strip()]
        splits[split] = [n if n in known else stem_of(n) for n in listed]
        if not listed:
            raise ConfigError(f'--split {split}: {str(path)!r} lists no names')
        unknown = [stem for stem in splits[split] if stem not in known]
        if unknown:
            first = ', '.join(unknown[:10]) + (', ...' if len(unknown) > 10 else '')
            raise ConfigError(
                f'--split {split}: {len(unknown)} of {len(listed)} names in {str(path)!r} have no '
                f'image: {first}'
            )
        for stem in splits[split]:
            if stem in seen:
                raise ConfigError(f'--split: {stem!r} is in {seen[stem]!r} and again in {split!r}')
            seen[stem] = split
    return splits
