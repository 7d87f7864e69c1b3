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
    return sorted(_walk(folder, what, nested))


def _walk(folder: Path, what: str, nested: bool) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise ConfigError(f'{what}: cannot read {error.filename!r}: {error.strerror}') from error

    seen = set()
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(root)
        is_new, hidden = real not in seen, ('.', '__')
        folders[:] = [f for f in folders if nested and is_new and not f.startswith(hidden)]
        seen.add(real)
        for name in names:
            if is_new and Path(name).suffix.lower() in IMAGE_SUFFIXES and name[0] != '.':
                yield Path(root) / name
