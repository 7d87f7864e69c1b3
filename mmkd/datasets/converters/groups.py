"""Which files belong together (one patient, one sequence), and splits that keep them together."""

import csv
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mmkd.datasets.errors import MissingData
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import IMAGE_SUFFIXES, printable

RULES = 'folder, a regular expression, or FILE.csv:COLUMN'


def stem_of(name: str) -> str:
    """Return a file's stem; composed, because macOS writes an accented letter as two characters."""
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
    return unicodedata.normalize('NFC', stem)


def groups_of(names: Sequence[str], rule: str, option: str) -> list[str]:
    """Return the group of each file.

    Args:
        names: Paths relative to the folder of the set or class, with `/`.
        rule: `folder` (the first folder of the path), `FILE.csv:COLUMN` (the column's value in the
            row that names the file), or a regular expression that is searched in the path (its
            first group, or all that matches).
        option: The command line's option, for messages.

    Raises:
        ConfigError: If the rule cannot be read or gives no group for a file.
    """
    path, colon, column = rule.rpartition(':')
    if rule == 'folder':
        groups = [name.rpartition('/')[0].partition('/')[0] for name in names]
    elif colon and path.lower().endswith('.csv'):
        groups = _by_table(names, path, column, option)
    elif rule.lower().endswith('.csv'):
        raise ConfigError(f'{option}: expected FILE.csv:COLUMN, got {rule!r}')
    else:
        groups = _by_pattern(names, rule, option)
    without = [name for name, group in zip(names, groups) if not group]
    if without:
        listed = ', '.join(map(printable, without[:5])) + (', ...' if len(without) > 5 else '')
        raise ConfigError(
            f'{option} {rule}: gives no group for {len(without)} of {len(names)} files: {listed}; '
            f'expected {RULES}'
        )
    return groups


def _by_pattern(names: Sequence[str], rule: str, option: str) -> list[str]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ConfigError(f'{option}: {rule!r} is no regular expression: {error}') from error
    matches = [pattern.search(name) for name in names]
    return [(m.group(1 if pattern.groups else 0) or '') if m else '' for m in matches]


def _by_table(names: Sequence[str], path: str, column: str, option: str) -> list[str]:
    if not Path(path).is_file():
        raise MissingData(f'{option}: no file {path!r} (from {Path.cwd()})')
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f'{option}: cannot read {path!r}: {error}') from error
    columns = [name for name in (rows[0] if rows else {}) if name is not None]
    choose(column, columns, f'{option} {path}')
    stems = [stem_of(name) for name in names]

    def table(key: str) -> dict[str, set[str]]:
        found = defaultdict(set)
        for row in rows:
            found[stem_of(row[key] or '')].add((row[column] or '').strip())
        return found

    tables = [table(key) for key in columns if key != column] or [{}]
    best = max(tables, key=lambda groups: sum(stem in groups for stem in stems))
    several = [stem for stem in stems if len(best.get(stem, ())) > 1]
    if several:
        raise ConfigError(
            f'{option} {path}: several values of {column!r} for {printable(several[0])}: '
            f'{sorted(best[several[0]])}'
        )
    return [next(iter(best.get(stem, {''}))) for stem in stems]


def cut_groups(sizes: Mapping[str, int], train_ratio: float, generator: np.random.Generator) -> set:
    """Draw the groups of the training split, so that it has about `train_ratio` of the files.

    The groups stand in random order and are cut where the share of files is nearest to the ratio,
    with one group on each side at least.

    Args:
        sizes: The number of files of each group, in a fixed order.
        train_ratio: Share of the training split.
        generator: What the order is drawn from.
    """
    names = list(sizes)
    names = [names[i] for i in generator.permutation(len(names))]
    shares = np.cumsum([sizes[name] for name in names], dtype=float)
    cut = int(np.abs(shares / shares[-1] - train_ratio).argmin()) + 1
    return set(names[: max(1, min(cut, len(names) - 1))])


def numbered(names: Sequence[str]) -> int:
    """Return how many of a set's names are consecutive numbers, as frames of videos.

    Returns:
        0 where they are few: not more than 20, and less than half of the names or less than 10
        names in all (mmkd's choice). PraNet's TrainDataset has the 550 numbers of CVC-ClinicDB
        among the 900 names of Kvasir-SEG.
    """
    numbers = defaultdict(set)
    for name in names:
        found = re.fullmatch(r'(.*?)(\d+)\D*', name)
        if found:
            numbers[found.group(1)].add(int(found.group(2)))
    neighbors = sum(n + 1 in group or n - 1 in group for group in numbers.values() for n in group)
    many = neighbors > 20 or (len(names) >= 10 and neighbors >= len(names) / 2)
    return neighbors if many else 0
