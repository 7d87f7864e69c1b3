"""Files that one process of a machine holds at a time."""

import fcntl
import os
from pathlib import Path
from typing import IO


def try_lock(path: str | Path) -> IO[str] | None:
    """Open a file and lock it, until it is closed or all processes that have it have ended.

    Args:
        path: The file; it is made if it is missing, and stays.

    Returns:
        The open file; None if another process holds it.

    Raises:
        OSError: If the folder takes no files or no locks.
    """
    try:
        return _open(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def wait_for_lock(path: str | Path) -> IO[str]:
    """Open and lock a file as `try_lock` does, once no other process holds it."""
    return _open(path, fcntl.LOCK_EX)


def is_locked(path: str | Path) -> bool:
    """Whether a process holds the lock of a file that is there."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _open(path: str | Path, how: int) -> IO[str]:
    while True:
        file = open(path, 'w')  # noqa: SIM115
        try:
            fcntl.flock(file, how)
        except BaseException:
            file.close()
            raise
        if _is_at(file, path):
            return file
        file.close()  # its folder was moved aside in between


def _is_at(file: IO[str], path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
