"""Class folders of tiles, and the patients of the tiles."""

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from mmkd.utils.errors import ConfigError
from mmkd.utils.images import IMAGE_SUFFIXES, printable

from .files import images_below, subfolders
from .groups import RULES, groups_of

SPLITS = ('train', 'val')
# Folders of a published split, in any letter case; what is published as test is held out as val.
PUBLISHED = dict(train='train', test='val', val='val')
# The patient in a TCGA barcode: project, tissue source site, participant.
PATIENT = re.compile(r'(?<![A-Z0-9])TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])', re.IGNORECASE)


class Tile(NamedTuple):
    """A tile: path relative to FOLDER, class number, published split ('' if none), patient."""

    name: str
    label: int
    split: str
    patient: str


def patient_of(name: str) -> str | None:
    """Return the patient in a tile's file name, such as TCGA-AA-3850; None if there is none."""
    found = PATIENT.search(Path(name).name)
    return found.group().upper() if found else None


def find_splits(folder: Path, classes: list[str]) -> dict[str, Path]:
    """Return the folders that hold the class folders, by split: `train` and `val`, or '' if none.

    Args:
        folder: With class folders, or with TRAIN and TEST (or VAL) in any letter case.
        classes: Names of the class folders.

    Raises:
        ConfigError: If the published split is not whole or not clear.
    """
    published: dict[str, Path] = {}
    found = subfolders(folder, 'FOLDER')
    for path in found:
        split = PUBLISHED.get(path.name.lower())
        if split is None or path.name in classes:
            continue
        if split in published:
            raise ConfigError(
                f'FOLDER: {published[split].name} and {path.name} in {str(folder)!r} are both '
                f'{split}; move one away'
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


def find_tiles(
    folder: Path, places: dict[str, Path], classes: list[str], patient: str = 'tcga'
) -> tuple[list[Tile], list[str]]:
    """Return all image files by name, and the names of the folders that are not read.

    Args:
        folder: Names are relative to it.
        places: Of `find_splits`.
        classes: Names of the class folders; a label is a place among them.
        patient: How to tell the patient of a tile: `tcga` (the barcode in the file's name), `file`
            (each file is of another patient), or a rule of `groups_of`, with which folders in the
            class folders are read, too. Default: `tcga`.

    Returns:
        The tiles in the order of splits, classes and names, not of the file system, and the
        folders.

    Raises:
        ConfigError: If a class folder is missing or has no image (with the folders found and the
            nearest), or the rule gives no patient for a tile.
    """
    nested = patient not in ('tcga', 'file')
    found: list[tuple[Path, Path, int, str]] = []  # image, class folder, label, split
    not_read: list[Path] = []
    if '' not in places:
        not_read += [p for p in subfolders(folder, 'FOLDER') if p not in places.values()]
    for split, place in places.items():
        there = subfolders(place, 'FOLDER')
        not_read += [path for path in there if path.name not in classes]
        for label, name in enumerate(classes):
            path = place / name
            if path not in there:  # is_dir() takes any letter case on some file systems
                raise _class_error(place, name, f'no folder {name!r}')
            images = images_below(path, 'FOLDER', nested)
            inner = [] if nested else subfolders(path, 'FOLDER')
            if not images:
                raise _class_error(
                    place,
                    name,
                    f'no image ({", ".join(IMAGE_SUFFIXES)}) in folder {name!r}'
                    + (f' (it has folders: --patient, one of {RULES})' if inner else ''),
                )
            not_read += inner
            found += [(image, path, label, split) for image in images]
    names = [image.relative_to(folder).as_posix() for image, *_ in found]
    if nested:
        inside = [image.relative_to(path).as_posix() for image, path, *_ in found]
        patients = groups_of(inside, patient, '--patient')
    else:
        patients = [(patient == 'tcga' and patient_of(name)) or name for name in names]
    tiles = [
        Tile(name, label, split, who)
        for name, who, (_, _, label, split) in zip(names, patients, found)
    ]
    return tiles, [printable(path.relative_to(folder).as_posix()) for path in not_read]


def _class_error(folder: Path, name: str, problem: str) -> ConfigError:
    """Return an error that names the folders there are, and the one nearest to class `name`."""
    found = [printable(path.name) for path in subfolders(folder, 'FOLDER')]
    lower = {other.lower(): other for other in found if other != name}
    nearest = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f'; did you mean {lower[nearest[0]]!r}?' if nearest else ''
    listed = ', '.join(found[:30]) + (', ...' if len(found) > 30 else '')
    return ConfigError(
        f'--classes: {problem} in {str(folder)!r}{hint} (folders found: {listed or "none"})'
    )
