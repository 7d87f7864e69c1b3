"""Image files that cannot be used: found while they are loaded, and named."""

import os
from collections.abc import Callable
from typing import Any

from mmengine import fileio
from mmengine.fileio import BaseStorageBackend, register_backend

from mmkd.utils.errors import ConfigError
from mmkd.utils.images import image_problem, printable

from .errors import UnreadableImage

# The keys under which a data set's info names an item's files.
FILES = ('img_path', 'seg_map_path')
BACKEND = 'mmkd_whole_images'


@register_backend(BACKEND, force=True)
class WholeImageBackend(BaseStorageBackend):
    """Reads files through another backend of mmengine and refuses images that were cut off.

    The pipelines of OpenMMLab read every file through `mmengine.fileio`, so that this check sees
    the bytes that are decoded: no file is read twice.

    Args:
        inner: `backend_args` of the other backend. Default: None (by the path's prefix).
        labels: Refuse PNG files of 16 bits: the toolboxes read label maps as 8 bits, and label 256
            would become 0. Default: False.
    """

    def __init__(self, inner: dict | None = None, labels: bool = False) -> None:
        self.inner, self.labels = inner, labels

    def get(self, filepath: Any) -> bytes:
        """Return a file's bytes.

        Raises:
            UnreadableImage: If the file cannot be read, is empty, or is an image without its end.
            ConfigError: If it is a label map of 16 bits.
        """
        data = _read(str(filepath), self.inner)
        if self.labels and data.startswith(b'\x89PNG') and data[24] == 16:
            raise ConfigError(
                f'{printable(str(filepath))}: a label map of 16 bits, expected 8 bits'
            )
        return data

    def get_text(self, filepath: Any, encoding: str = 'utf-8') -> str:
        """Return a file's text."""
        return fileio.get_text(filepath, encoding, self.inner)


def check_files(dataset: Any) -> None:
    """Let the loading steps of a data set's pipeline read through `WholeImageBackend`.

    Args:
        dataset: A data set of any toolbox, or a wrapper of one or several.
    """
    for inner in (getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ())):
        if inner is not None:
            check_files(inner)
    _check_steps(getattr(dataset, 'pipeline', None))


def _check_steps(step: Any) -> None:
    """Walk through a step, and through the steps that it holds: `Compose`, `TestTimeAug`, ..."""
    if isinstance(step, dict):
        step = list(step.values())
    if isinstance(step, (list, tuple)):
        for part in step:
            _check_steps(part)
        return
    for name in ('transforms', 'subroutines', 'branch_pipelines'):
        _check_steps(getattr(step, name, ()))
    args = getattr(step, 'backend_args', None)
    if not hasattr(step, 'backend_args') or getattr(step, 'file_client_args', None) is not None:
        return
    if not (args and args.get('backend') == BACKEND):
        labels = 'Annotations' in type(step).__name__
        step.backend_args = dict(backend=BACKEND, inner=args, labels=labels)


def load_whole(dataset: Any, index: int, load: Callable[[int], Any]) -> Any:
    """Return `load(index)`; where it fails because of one of the item's files, name that file.

    Args:
        dataset: A data set with `get_data_info`.
        index: The item.
        load: What loads it.

    Raises:
        UnreadableImage: If a file cannot be used. Other errors of `load` pass unchanged.
    """
    try:
        return load(index)
    except ConfigError:
        raise
    except Exception as error:
        info = dataset.get_data_info(index)
        for key in FILES:  # only now: the files of a sound item are not read again
            path = info.get(key)
            if isinstance(path, str):
                _read(path, getattr(dataset, 'backend_args', None), decode=True, cause=error)
        raise


def _read(
    path: str,
    backend_args: dict | None = None,
    decode: bool = False,
    cause: Exception | None = None,
) -> bytes:
    try:
        data = fileio.get(path, backend_args=backend_args)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, 'strerror', None) or error
        raise _unreadable(path, f'cannot be read: {reason}') from error
    problem = image_problem(data, decode)
    if problem:
        raise _unreadable(path, problem) from cause
    return data


def _unreadable(path: str, problem: str) -> UnreadableImage:
    where = path if '://' in path else os.path.abspath(path)
    return UnreadableImage(f'{printable(where)} {problem}')
