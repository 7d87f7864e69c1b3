"""Files that are whole or not there."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

TEMPORARY = 'mmkd_'  # what names of temporary files hold


def write_atomically(path: str | Path, write: Callable[[str], object]) -> None:
    """Write a file so that at any moment the old one or the complete new one is there.

    Args:
        path: The file; its folder is made if it is missing.
        write: Called with the path of a temporary file, which is then flushed and renamed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
