"""Files that are whole or not there."""

import os
import tempfile
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


def write_atomically(path, write):
    """Call `write(temporary_path)`, flush it to the disk, then rename: the file at `path` is the old one or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f'.{path.name}.', suffix=path.suffix
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


def remove_leftovers(folder):
    """Remove the temporary files that a kill while writing left in a folder; for the one process that writes there."""
    for path in Path(folder).glob('.*.pth.*.pth'):
        path.unlink()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@register_backend('mmkd_atomic')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, each written to a temporary file and renamed: `backend_args=dict(backend='mmkd_atomic')`."""

    def put(self, obj, filepath):
        """Write bytes."""
        write_atomically(filepath, lambda temporary: Path(temporary).write_bytes(obj))

    def put_text(self, obj, filepath, encoding='utf-8'):
        """Write text."""
        self.put(obj.encode(encoding), filepath)
