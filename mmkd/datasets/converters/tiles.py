"""From class folders of histology tiles to lists of `name label` lines, split by patient."""

import difflib
import io
import os
import re
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from mmkd.utils.errors import ConfigError
from mmkd.utils.images import IMAGE_SUFFIXES
from .output import whole_folder, write_json

SPLITS = ('train', 'val')
# Folders of a published split, in any letter case; what is published as test is held out as val.
PUBLISHED = dict(train='train', test='val', val='val')
# The patient in a TCGA barcode: project, tissue source site, participant.
PATIENT = re.compile(r'(?<![A-Z0-9])TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])', re.IGNORECASE)


class Tile(NamedTuple):
    """A tile's path relative to FOLDER, its class number, its published split ('' if none) and its patient."""

    name: str
    label: int
    split: str
    patient: str


@dataclass
class Report:
    """What a conversion found: counts by split and class, and the names of files and folders it could not use."""

    classes: list
    split: str
    tiles: dict = field(default_factory=dict)
    patients: dict = field(default_factory=dict)
    without_code: int = 0
    unreadable: list = field(default_factory=list)
    unlistable: list = field(default_factory=list)
    leaks: list = field(default_factory=list)
    two_classes: list = field(default_factory=list)
    not_read: list = field(default_factory=list)

    @property
    def left_out(self):
        return self.unreadable + self.unlistable

    def table(self):
        """Return the counts by split and class, then a line for each kind of finding, with names."""
        lines = []
        if self.tiles:
            width = max(len(name) for name in ('class', *self.classes)) + 2
            lines = [
                f'split: {self.split}',
                f'{"split":8}{"class":{width}}{"tiles":>8}{"patients":>10}',
            ]
            for split, tiles in self.tiles.items():
                for name, tile_count, patient_count in zip(
                    self.classes, tiles, self.patients[split]
                ):
                    lines.append(f'{split:8}{name:{width}}{tile_count:8}{patient_count:10}')
        if self.without_code:
            lines.append(
                f'no patient code (TCGA-xx-xxxx) in the name, each file counts as its own patient: '
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
                lines.append(
                    f'{what}: {len(names)}: {", ".join(names[:20])}{", ..." if len(names) > 20 else ""}'
                )
        return '\n'.join(lines)


def patient_of(name):
    """Return the patient in a tile's file name, such as TCGA-AA-3850; None if there is none."""
    found = PATIENT.search(Path(name).name)
    return found.group().upper() if found else None


def is_tile(path):
    """Whether an image file is whole (Pillow reads it to its end) and OpenCV, which training reads with, decodes it."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.verify()  # the check sums and the end mark, which load() does not look at
        with Image.open(io.BytesIO(data)) as image:
            image.load()
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    except (
        Exception
    ):  # a broken file makes Pillow raise nearly anything: OSError, SyntaxError, struct.error, ...
        return False


def is_listable(name):
    """Whether a name comes back from a line of a UTF-8 list as it was."""
    try:
        name.encode('utf-8')
    except UnicodeEncodeError:
        return False
    return name == name.strip() and '\n' not in name and '\r' not in name


def printable(name):
    """Return a name in one line that every terminal and JSON file takes."""
    return name if is_listable(name) else ascii(name)


def _entries(folder):
    """Return the visible entries of a folder, sorted by name."""
    try:
        return sorted(
            (path for path in folder.iterdir() if not path.name.startswith('.')),
            key=lambda path: path.name,
        )
    except OSError as error:
        raise ConfigError(f'{folder}: cannot read it: {error.strerror}') from error


def _subfolders(folder):
    return [path for path in _entries(folder) if path.is_dir()]


def _images(folder):
    # A link to a file that is gone is no file, but a tile that somebody expects: it is reported as unreadable.
    return [
        path
        for path in _entries(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES
        and (path.is_file() or path.is_symlink() and not path.is_dir())
    ]


def _class_error(folder, name, problem):
    """Return a ValueError that names the folders there are, and the one nearest to class `name`."""
    found = [path.name for path in _subfolders(folder)]
    lower = {other.lower(): other for other in found if other != name}
    nearest = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f'; did you mean {lower[nearest[0]]!r}?' if nearest else ''
    listed = ', '.join(found[:30]) + (', ...' if len(found) > 30 else '')
    return ValueError(
        f'--classes: {problem} in {str(folder)!r}{hint} (folders found: {listed or "none"})'
    )


def find_splits(folder, classes):
    """Return the folders that hold the class folders, by split: {'train': .., 'val': ..}, or {'': folder}.

    Args:
        folder (Path): With class folders, or with TRAIN and TEST (or VAL) in any letter case.
        classes (list[str]): Names of the class folders.

    Raises:
        ConfigError: If the published split is not whole or not clear.
    """
    published, found = {}, _subfolders(folder)
    for path in found:
        split = PUBLISHED.get(path.name.lower())
        if split is None or path.name in classes:
            continue
        if split in published:
            raise ConfigError(
                f'FOLDER: {published[split].name} and {path.name} in {str(folder)!r} are both {split}; '
                'move one away'
            )
        published[split] = path
    if not published:
        return {'': folder}
    names = ', '.join(path.name for path in published.values())
    beside = [path.name for path in found if path.name in classes]
    if beside:
        raise ConfigError(
            f'FOLDER: {str(folder)!r} has split folders ({names}) and class folders '
            f'({", ".join(beside)}); move the ones or the others away'
        )
    if len(published) < 2:
        raise ConfigError(
            f'FOLDER: {str(folder)!r} has {names} but not both TRAIN and TEST (folders found: '
            f'{", ".join(path.name for path in found)}); for a random cut name {names} as FOLDER'
        )
    return {split: published[split] for split in SPLITS}


def find_tiles(folder, places, classes):
    """Return all image files by name, and the folders that are not read.

    Args:
        folder (Path): Names are relative to it.
        places (dict[str, Path]): Of `find_splits`.
        classes (list[str]): Names of the class folders; a label is a place among them.

    Returns:
        tuple[list[Tile], list[str]]: In the order of splits, classes and names, not of the file system.

    Raises:
        ConfigError: If a class folder is missing or has no image; with the folders found and the nearest.
    """
    tiles, not_read = [], []
    if '' not in places:
        not_read += [path.name for path in _subfolders(folder) if path not in places.values()]
    for split, place in places.items():
        found = _subfolders(place)
        not_read += [
            path.relative_to(folder).as_posix() for path in found if path.name not in classes
        ]
        for label, name in enumerate(classes):
            path = place / name
            if (
                path not in found
            ):  # and not is_dir(), which takes any letter case on some file systems
                raise _class_error(place, name, f'no folder {name!r}')
            images = _images(path)
            if not images:
                raise _class_error(
                    place, name, f'no image ({", ".join(IMAGE_SUFFIXES)}) in folder {name!r}'
                )
            not_read += [inner.relative_to(folder).as_posix() for inner in _subfolders(path)]
            names = [image.relative_to(folder).as_posix() for image in images]
            tiles += [Tile(image, label, split, patient_of(image) or image) for image in names]
    return tiles, [printable(name) for name in not_read]


def split_by_patient(tiles, train_ratio, seed):
    """Cut by whole patients, so that train has about `train_ratio` of the tiles of each class.

    In each class the patients stand in random order and are cut where the share of tiles is nearest to the ratio, with
    one patient on each side at least. A patient with tiles of several classes counts in the one that most of them have.

    Args:
        tiles (list[Tile]): In any order.
        train_ratio (float): Share of `train`.
        seed (int): Of the order.

    Returns:
        set[str]: The patients in `train`.
    """
    counts = {}
    for tile in tiles:
        counts.setdefault(tile.patient, Counter())[tile.label] += 1
    by_label = {}
    for patient in sorted(counts):
        label = max(sorted(counts[patient]), key=counts[patient].get)
        by_label.setdefault(label, []).append(patient)
    generator, train = np.random.default_rng(seed), set()
    for _, patients in sorted(by_label.items()):
        patients = [patients[i] for i in generator.permutation(len(patients))]
        shares = np.cumsum([counts[patient].total() for patient in patients], dtype=float)
        cut = int(np.abs(shares / shares[-1] - train_ratio).argmin()) + 1
        train.update(patients[: max(1, min(cut, len(patients) - 1))])
    return train


def convert_tiles(
    folder,
    out,
    classes=('MSS', 'MSIMUT'),
    train_ratio=0.8,
    seed=0,
    strict=False,
    overwrite=False,
    copy=False,
):
    """Convert class folders of tiles to lists for mmpretrain's `CustomDataset`, whole or not at all.

    Read: `<class>/` folders of images, or `TRAIN/<class>/` and `TEST/<class>/` (any letter case), whose split is kept.
    Otherwise the cut is random, by patient (the TCGA barcode in the file name).

    Written: `images` (a link to `folder`, or copies), `meta/train.txt` and `meta/val.txt` (lines of a path relative to
    `images` and a label), `annotations/tiles.json` (the report, with all names).

    Args:
        folder (str): With the class folders.
        out (str): Folder to write.
        classes (sequence[str]): Names of the class folders; their order gives the labels.
            Default: ('MSS', 'MSIMUT').
        train_ratio (float): Share of `train` in the random cut. Default: 0.8.
        seed (int): Of the random cut. Default: 0.
        strict (bool): Fail where a file cannot be used, instead of leaving it out. Default: False.
        overwrite (bool): Replace `out`. Default: False.
        copy (bool): Copy the tiles instead of linking their folder. Default: False.

    Returns:
        Report: Counts and the names of what was left out.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: With one message that names the file, folder or option.
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
    source, target = Path(folder).resolve(), Path(out).resolve()
    if not source.is_dir():
        raise FileNotFoundError(f'FOLDER: no folder {str(folder)!r} (from {Path.cwd()})')
    if target == source or target in source.parents or source in target.parents:
        raise ConfigError(f'OUT: {str(out)!r} must lie apart from FOLDER {str(folder)!r}')
    places = find_splits(source, classes)
    tiles, not_read = find_tiles(source, places, classes)
    published = '' not in places
    report = Report(
        classes,
        f'as published ({", ".join(path.name for path in places.values())})'
        if published
        else f'random, by patient (train ratio {train_ratio}, seed {seed})',
        not_read=not_read,
    )
    with whole_folder(out, overwrite) as new:
        tiles = _usable(source, tiles, report)
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
        for split, counts in report.tiles.items():
            if not all(counts):
                name = classes[counts.index(0)]
                advice = (
                    ''
                    if published
                    else '; a cut by patient takes two patients in each class at least'
                )
                raise ConfigError(
                    f'split {split!r}: no usable tile of class {name!r}{advice}\n{report.table()}'
                )
        try:
            _write(new, target, source, splits, report, copy)
        except OSError as error:
            raise ConfigError(f'{target}: cannot write there: {error}') from error
    return report


def _usable(source, tiles, report):
    kept = []
    for tile in track_iter_progress(tiles):
        if not is_listable(tile.name):
            report.unlistable.append(printable(tile.name))
        elif not is_tile(source / tile.name):
            report.unreadable.append(tile.name)
        else:
            kept.append(tile)
    return kept


def _count(splits, report):
    patients = {}
    for split, tiles in splits.items():
        patients[split] = [
            {tile.patient for tile in tiles if tile.label == i} for i in range(len(report.classes))
        ]
        report.tiles[split] = [
            sum(tile.label == i for tile in tiles) for i in range(len(report.classes))
        ]
        report.patients[split] = [len(found) for found in patients[split]]
        report.without_code += sum(tile.patient == tile.name for tile in tiles)
    report.leaks = sorted(set.intersection(*(set().union(*found) for found in patients.values())))
    labels = {}
    for tile in (tile for tiles in splits.values() for tile in tiles):
        labels.setdefault(tile.patient, set()).add(tile.label)
    report.two_classes = sorted(patient for patient, found in labels.items() if len(found) > 1)


def _write(new, target, source, splits, report, copy):
    if copy:
        for tile in track_iter_progress([tile for tiles in splits.values() for tile in tiles]):
            path = new / 'images' / tile.name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / tile.name, path)
    else:
        try:
            # Relative, so that it holds where a folder with both is moved or mounted elsewhere.
            (new / 'images').symlink_to(os.path.relpath(source, target), target_is_directory=True)
        except (OSError, NotImplementedError) as error:
            raise ConfigError(
                f'{target}: cannot make a link to {source} there ({error}); use --copy'
            ) from error
    (new / 'meta').mkdir()
    for split, tiles in splits.items():
        lines = ''.join(f'{tile.name} {tile.label}\n' for tile in tiles)
        (new / 'meta' / f'{split}.txt').write_text(lines, encoding='utf-8')
    write_json(
        new / 'annotations' / 'tiles.json', asdict(report)
    )  # annotations/ also marks a set that may be replaced
