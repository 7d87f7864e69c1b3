"""Listing of image files, the same on every file system."""

import os
from collections.abc import Iterator
from pathlib import Path

from mmkd.utils.errors import ConfigError
from mmkd.utils.images import IMAGE_SUFFIXES


def subfolders(folder: Path, what: str) -> list[Path]:
    """Return the visible folders in a folder, sorted by name.

    Raises:
        ConfigError: If the folder cannot be read.
    """
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith('.')]
        return sorted((path for path in found if path.is_dir()), key=lambda path: path.name)
    except OSError as error:
        raise ConfigError(f'{what}: cannot read {str(folder)!r}: {error.strerror}') from error


def images_below(folder: Path, what: str, nested: bool = True) -> list[Path]:
    """Return the visible image files in a folder, sorted by path.

    A link to a file that is gone counts as an image: somebody expects it there, and it is reported
    as unreadable. A folder that links lead back to is read once.

    Args:
        folder: Where to look.
        what: The folder's name in messages.
        nested: Look also into the folders below. Default: True.

    Raises:
        ConfigError: If a folder cannot be read.
    """
    found = []
    for root, folders, names in walk(folder, what):
        found += [root / name for name in image_names(names)]
        if not nested:
            folders.clear()
    return sorted(found)


def image_names(names: list[str]) -> list[str]:
    """Return those of a folder's file names that are visible image files."""
    return [
        name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES and name[0] != '.'
    ]


def walk(folder: Path, what: str) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk through a folder as `os.walk`, sorted, without hidden folders, but into linked ones.

    A folder that several links lead to is visited once, one around the beginning not at all.

    Args:
        folder: Where to begin.
        what: The folder's name in messages.

    Yields:
        A folder, and the names of the folders and of the files in it. The list of folders can be
        shortened, and what is taken out is not visited.

    Raises:
        ConfigError: If a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise ConfigError(f'{what}: cannot read {error.filename!r}: {error.strerror}') from error

    seen, start = set(), os.path.realpath(folder)
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or start.startswith(os.path.join(real, '')):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(('.', '__')))
        yield Path(root), folders, names
