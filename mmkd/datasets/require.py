"""Messages for files and folders that are missing or cannot be listed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine import fileio

from mmkd.utils.errors import ConfigError

from .errors import MissingData


def require(path: Any, what: str, advice: str, backend_args: dict | None = None) -> None:
    """Raise a `MissingData` that says what is missing, where, and how to get it.

    Args:
        path: A file or folder.
        what: Its name in the message.
        advice: How to prepare it.
        backend_args: mmengine's. Default: None (by the path's prefix).
    """
    if not path or not fileio.exists(path, backend_args=backend_args):
        raise MissingData(f'no {what} {absolute(path)}. {advice}')


def absolute(path: Any) -> str:
    """Return a path as messages show it."""
    return str(path) if '://' in str(path) else os.path.abspath(path or '')


@contextmanager
def listing(folder: Any) -> Iterator[None]:
    """Turn the errors of listing a folder (no permission, links in a circle) into a ConfigError."""
    try:
        yield
    except (OSError, RecursionError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise ConfigError(f'{absolute(folder)}: cannot list it: {reason}') from error
