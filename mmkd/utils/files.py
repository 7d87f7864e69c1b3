"""Files that are whole or not there."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from .errors import ConfigError

TEMPORARY = 'mmkd_'  # what names of temporary files hold


def write_atomically(path: str | Path, write: Callable[[str], object]) -> None:
    """Write a file so that at any moment the old one or the complete new one is there.

    Args:
        path: The file; its folder is made if it is missing.
        write: Called with the path of a temporary file, which is then flushed and renamed.

    Raises:
        OSError: If that cannot be; it names `path`, not the temporary file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _errors_about(path):
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f'.{path.name}.{TEMPORARY}', suffix=path.suffix
        )
        os.close(handle)
        try:
            write(temporary)
            with open(temporary, 'rb') as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


@contextmanager
def _errors_about(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if f'.{path.name}.{TEMPORARY}' not in str(error.filename):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_file_path(path: str | Path, key: str) -> None:
    """Look whether a file can be written, for tools that work long before they write.

    Args:
        path: The file; it and its folder may be missing.
        key: The argument that has named it.

    Raises:
        ConfigError: If it is a folder, or its folder a file or not to be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f'{key}: expected a file, got the folder {str(path)!r}')
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ConfigError(f'{key}: {str(path)!r}: {str(folder)!r} is no folder')
    if not os.access(folder, os.W_OK):
        raise ConfigError(f'{key}: {str(path)!r}: no permission to write in {str(folder)!r}')


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that a kill has left in a folder.

    To be called by the one process that writes there.
    """
    # The latter two are the first release's.
    for pattern in (f'.*.{TEMPORARY}*', '.*.pth.*.pth', '.*.py.*.py'):
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@register_backend('mmkd_atomic')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, each written to a temporary file and renamed.

    In a config: `backend_args=dict(backend='mmkd_atomic')`.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes."""
        write_atomically(filepath, lambda temporary: Path(temporary).write_bytes(obj))

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)
