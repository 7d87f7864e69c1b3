"""What converters write: a whole folder or nothing, COCO files, and how far they are."""

import contextlib
import json
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from mmkd.datasets.errors import ExistingData
from mmkd.utils.errors import ConfigError

# Lies in each folder that a converter has made; --overwrite replaces only such a folder.
MARKER = '.mmkd_data_set'
Item = TypeVar('Item')


def tracked(items: Sequence[Item]) -> Iterable[Item]:
    """Go through items with a progress bar on stderr, without one where that is no terminal."""
    console = Console(stderr=True)
    return track(items, '', console=console, disable=not sys.stderr.isatty(), transient=True)


def coco(images: list[dict], annotations: list[dict]) -> dict:
    """Return a COCO dict with the category `polyp` (id 1)."""
    return dict(images=images, annotations=annotations, categories=[dict(id=1, name='polyp')])


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file and the folders above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


def resolved(path: str | Path, what: str) -> Path:
    """Return an absolute path without links.

    Raises:
        ConfigError: If its links lead in a circle, or the system refuses such a path.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f'{what}: {str(path)!r}: {error}') from error


def check_apart(out: str | Path, sources: dict[str, str | Path]) -> None:
    """Raise a ConfigError if OUT lies in a source folder or the other way round.

    Args:
        out: The folder to write.
        sources: The folders to read, by their name in the message.
    """
    target = resolved(out, 'OUT')
    for what, folder in sources.items():
        source = resolved(folder, what)
        if target == source or target in source.parents or source in target.parents:
            raise ConfigError(f'OUT: {str(out)!r} must lie apart from {what} {str(folder)!r}')


@contextlib.contextmanager
def whole_folder(out: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder that becomes `out` if the block ends well, and is removed if not.

    Args:
        out: The folder to come.
        overwrite: Replace what is there, if a converter made it (it holds `MARKER`) or it is an
            empty folder. Default: False.

    Raises:
        ExistingData: If `out` is there already and is not to be overwritten, or was not made by a
            converter.
        ConfigError: If nothing can be written beside `out`.
    """
    out = resolved(out, 'OUT')
    if out.exists() and not overwrite:
        raise ExistingData(
            f'{out} is there already; remove it, name another folder, or use --overwrite'
        )
    if out.exists() and not _may_be_replaced(out):
        raise ExistingData(
            f'{out} was not made by a converter of mmkd (it has no {MARKER}): --overwrite leaves '
            'it alone; remove it yourself, or name another folder'
        )
    # Named before it is made: a signal in between leaves nothing.
    temporary = out.parent / f'.{out.name}.{uuid.uuid4().hex}'
    new, old = temporary / 'new', temporary / 'old'
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir(mode=0o700)
            new.mkdir()
        except OSError as error:
            raise ConfigError(f'{out}: cannot write there: {error.strerror}') from error
        (new / MARKER).write_text(
            'Made by a converter of mmkd, whose --overwrite replaces this folder.\n'
        )
        yield new
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _may_be_replaced(out: Path) -> bool:
    return out.is_dir() and ((out / MARKER).is_file() or not any(out.iterdir()))
