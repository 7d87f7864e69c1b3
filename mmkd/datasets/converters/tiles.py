"""From class folders of histology tiles to lists of `name label` lines, split by patient."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from mmkd.datasets.errors import MissingData
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import is_listable, load_image, printable

from .groups import RULES, cut_groups
from .output import check_apart, resolved, tracked, whole_folder, write_json
from .tile_folders import SPLITS, Tile, find_splits, find_tiles
from .tile_report import TileReport


def split_by_patient(tiles: Sequence[Tile], train_ratio: float, seed: int) -> set[str]:
    """Cut by whole patients, so that train has about `train_ratio` of the tiles of each class.

    In each class the patients stand in random order and are cut where the share of tiles is nearest
    to the ratio, with one patient on each side at least. A patient with tiles of several classes
    counts in the one that most of them have.

    Args:
        tiles: In any order.
        train_ratio: Share of `train`.
        seed: Of the order.

    Returns:
        The patients in `train`.
    """
    counts: dict[str, Counter[int]] = {}
    for tile in tiles:
        counts.setdefault(tile.patient, Counter())[tile.label] += 1
    by_label: dict[int, dict[str, int]] = {}
    for patient in sorted(counts):
        label = max(sorted(counts[patient]), key=lambda label: counts[patient][label])
        by_label.setdefault(label, {})[patient] = counts[patient].total()
    generator, train = np.random.default_rng(seed), set()
    for _, sizes in sorted(by_label.items()):
        train |= cut_groups(sizes, train_ratio, generator)
    return train


def convert_tiles(
    folder: str | Path,
    out: str | Path,
    classes: Iterable[str] = ('MSS', 'MSIMUT'),
    train_ratio: float = 0.8,
    seed: int = 0,
    strict: bool = False,
    overwrite: bool = False,
    copy: bool = False,
    patient: str = 'tcga',
) -> TileReport:
    """Convert class folders of tiles to lists for mmpretrain's `CustomDataset`, whole or not at
    all.

    Read: `<class>/` folders of images, or `TRAIN/<class>/` and `TEST/<class>/` (any letter case),
    whose split is kept. Otherwise the cut is random, by patient.

    Written: `images` (a link to `folder`, or copies), `meta/train.txt` and `meta/val.txt` (lines of
    a path relative to `images` and a label), `annotations/tiles.json` (the report, with all names).

    Args:
        folder: With the class folders.
        out: Folder to write.
        classes: Names of the class folders; their order gives the labels.
            Default: ('MSS', 'MSIMUT').
        train_ratio: Share of `train` in the random cut. Default: 0.8.
        seed: Of the random cut. Default: 0.
        strict: Fail where a file cannot be used, instead of leaving it out. Default: False.
        overwrite: Replace `out`. Default: False.
        copy: Copy the tiles instead of linking their folder. Default: False.
        patient: How to tell the patient of a tile: `tcga` (the barcode in the file's name), `file`
            (each file is of another patient), `folder` (the folder in the class folder), a regular
            expression, or `FILE.csv:COLUMN`. Default: `tcga`.

    Returns:
        Counts and the names of what was left out.

    Raises:
        ConfigError: With one message that names the file, folder or option; also if the random cut
            is to be by TCGA barcode and no file has one.
        MissingData: If the folder is missing.
        ExistingData: If `out` is there and is not to be overwritten.
    """
    classes = list(classes)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ConfigError(
            f'--classes: expected two names or more, each once, got {" ".join(classes) or "none"}'
        )
    if not 0 < train_ratio < 1:
        raise ConfigError(f'--train-ratio: expected a share in (0, 1), got {train_ratio}')
    if seed < 0:
        raise ConfigError(f'--seed: expected 0 or more, got {seed}')
    source, target = resolved(folder, 'FOLDER'), resolved(out, 'OUT')
    if not source.is_dir():
        raise MissingData(f'FOLDER: no folder {str(folder)!r} (from {Path.cwd()})')
    check_apart(out, dict(FOLDER=folder))
    places = find_splits(source, classes)
    tiles, not_read = find_tiles(source, places, classes, patient)
    published = '' not in places
    split = f'random, by patient (train ratio {train_ratio}, seed {seed})'
    if published:
        split = f'as published ({", ".join(path.name for path in places.values())})'
    report = TileReport(classes, split, patient, not_read=not_read)
    if not published:
        _refuse_cut_by_tile(tiles, patient)
    with whole_folder(out, overwrite) as new:
        tiles = _usable(source, tiles, report)
        _warn_of_patients(tiles, patient, report)
        if strict and report.left_out:
            raise ConfigError(
                f'--strict: {len(report.left_out)} files cannot be used\n{report.table()}'
            )
        if published:
            splits = {split: [tile for tile in tiles if tile.split == split] for split in SPLITS}
        else:
            train = split_by_patient(tiles, train_ratio, seed)
            splits = dict(
                train=[tile for tile in tiles if tile.patient in train],
                val=[tile for tile in tiles if tile.patient not in train],
            )
        _count(splits, report)
        _check_counts(report, published)
        try:
            _write(new, target, source, splits, report, copy)
        except OSError as error:
            raise ConfigError(f'{target}: cannot write there: {error}') from error
    return report


def _refuse_cut_by_tile(tiles: list[Tile], patient: str) -> None:
    """Raise a ConfigError if the random cut by TCGA barcode would be one by tile."""
    if patient == 'tcga' and all(tile.patient == tile.name for tile in tiles):
        raise ConfigError(
            '--patient: no file name has a TCGA barcode (the first is '
            f'{printable(tiles[0].name)}), so that tiles of one patient could be in train and '
            f'in val. Tell which tiles belong together: {RULES}; or --patient file, if each '
            'tile is of another patient'
        )


def _warn_of_patients(tiles: list[Tile], patient: str, report: TileReport) -> None:
    """Warn where a cut by patient may be one by tile."""
    if patient == 'tcga':
        report.without_code = sum(tile.patient == tile.name for tile in tiles)
    if report.without_code:
        report.warnings.append(
            f'{report.without_code} of {len(tiles)} tiles have no TCGA barcode: tiles of one '
            'patient may be in train and in val (--patient tells which belong together)'
        )
    if patient != 'file' and len({tile.patient for tile in tiles}) == len(tiles) > 0:
        report.warnings.append(
            f'--patient {patient}: every patient has one tile. If that is not so, tiles of one '
            f'patient may be in train and in val; expected {RULES}'
        )


def _check_counts(report: TileReport, published: bool) -> None:
    for split, counts in report.tiles.items():
        if not all(counts):
            name = report.classes[counts.index(0)]
            advice = (
                '' if published else '; a cut by patient takes two patients in each class at least'
            )
            raise ConfigError(
                f'split {split!r}: no usable tile of class {name!r}{advice}\n{report.table()}'
            )


def _usable(source: Path, tiles: list[Tile], report: TileReport) -> list[Tile]:
    kept = []
    for tile in tracked(tiles):
        if not is_listable(tile.name):
            report.unlistable.append(printable(tile.name))
        elif not is_tile(source / tile.name):
            report.unreadable.append(tile.name)
        else:
            kept.append(tile)
    return kept


def is_tile(path: Path) -> bool:
    """Return whether an image file is there and whole."""
    try:
        return load_image(path.read_bytes(), cv2.IMREAD_COLOR)[1] is None
    except OSError:
        return False


def _count(splits: dict[str, list[Tile]], report: TileReport) -> None:
    labels = range(len(report.classes))
    patients = {
        split: [{tile.patient for tile in tiles if tile.label == i} for i in labels]
        for split, tiles in splits.items()
    }
    for split, tiles in splits.items():
        report.tiles[split] = [sum(tile.label == i for tile in tiles) for i in labels]
        report.patients[split] = [len(found) for found in patients[split]]
    report.leaks = sorted(set.intersection(*(set().union(*found) for found in patients.values())))
    of_patient: dict[str, set[int]] = {}
    for tile in (tile for tiles in splits.values() for tile in tiles):
        of_patient.setdefault(tile.patient, set()).add(tile.label)
    report.two_classes = sorted(who for who, found in of_patient.items() if len(found) > 1)


def _write(
    new: Path,
    target: Path,
    source: Path,
    splits: dict[str, list[Tile]],
    report: TileReport,
    copy: bool,
) -> None:
    if copy:
        for tile in tracked([tile for tiles in splits.values() for tile in tiles]):
            path = new / 'images' / tile.name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / tile.name, path)
    else:
        try:
            # Relative, so that it holds where a folder with both is moved or mounted elsewhere.
            link = os.path.relpath(source, target)
            (new / 'images').symlink_to(link, target_is_directory=True)
        except (OSError, NotImplementedError) as error:
            raise ConfigError(
                f'{target}: cannot make a link to {source} there ({error}); use --copy'
            ) from error
    (new / 'meta').mkdir()
    for split, tiles in splits.items():
        lines = ''.join(f'{tile.name} {tile.label}\n' for tile in tiles)
        (new / 'meta' / f'{split}.txt').write_text(lines, encoding='utf-8')
    write_json(new / 'annotations' / 'tiles.json', asdict(report))
