"""What a pipeline's first steps made of an item, kept in files: decoded, resized images."""

import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from mmkd.utils.errors import ConfigError

from .unreadable import FILES

FORMAT = 'mmkd 2'
ADDRESS = re.compile(r' at 0x[0-9a-f]+')
# Bytes that a cache leaves free on its disk, mmkd's choice.
LEFT_FREE = 2**30


class StepCache:
    """Files with the results of a pipeline's first steps, for all workers, runs and members.

    An item's file is found by all that it depends on: the steps with their arguments, the
    annotation, and each image file's path, size and times, so that a file that was replaced, or
    another pipeline, is another item. Nothing in the files is ever executed. What is no longer
    used stays until somebody removes the folder.

    Args:
        folder: Made if it is missing.
        steps: The steps.

    Raises:
        ConfigError: If there can be no such folder.
    """

    def __init__(self, folder: str, steps: Sequence[Callable]) -> None:
        try:
            self.folder = Path(folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(
                f'dataset.cache_folder: expected a folder to write to, got {folder!r} ({error})'
            ) from error
        self.pipeline = f'{FORMAT} {mmcv.__version__} {[_described(step) for step in steps]}'
        self.writes = True

    def path(self, info: dict[str, Any]) -> Path:
        """Return the file of an item.

        Args:
            info: The item's annotation.
        """
        parts = [self.pipeline, repr(info)]
        for key in FILES:
            name = info.get(key)
            if isinstance(name, str) and os.path.exists(name):
                stat = os.stat(name)
                parts.append(f'{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}')
        digest = hashlib.blake2b('\n'.join(parts).encode(), digest_size=16).hexdigest()
        return self.folder / digest[:2] / digest[2:]

    def load(self, path: Path) -> Any:
        """Return what was kept; None if there is nothing whole."""
        try:
            content = bytearray(path.read_bytes())
        except FileNotFoundError:
            return None
        head, _, rest = content.partition(b'\n')
        if not head.isdigit() or int(head) != zlib.crc32(rest):
            return None
        text, _, data = rest.partition(b'\n')
        value, arrays = json.loads(text)
        return _decoded(value, arrays, data)

    def save(self, path: Path, results: dict[str, Any]) -> None:
        """Keep a result, as long as the disk has room.

        Raises:
            ConfigError: If it holds something that no file can.
        """
        if not self.writes:
            return
        arrays: list[np.ndarray] = []
        value = _encoded(results, arrays)
        places, offset = [], 0
        for array in arrays:
            places.append([array.dtype.str, list(array.shape), offset])
            offset += array.nbytes
        rest = b'\n'.join([json.dumps([value, places]).encode(), b''.join(map(_bytes, arrays))])
        try:
            if shutil.disk_usage(self.folder).free < LEFT_FREE + len(rest):
                raise OSError('less than 1 GiB is left on the disk')
            path.parent.mkdir(exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, 'wb') as file:
                file.write(b'%d\n' % zlib.crc32(rest))
                file.write(rest)
            os.replace(temporary, path)
        except OSError as error:  # training goes on without it
            self.writes = False
            print_log(f'{self.folder}: nothing more is kept: {error}', 'current', level=30)


def _bytes(array: np.ndarray) -> bytes:
    return array.tobytes()


def _encoded(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return a value as JSON can hold it; its arrays are put aside."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    kind = type(value).__name__
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        arrays.append(np.asarray(value))
        return ['array' if isinstance(value, np.ndarray) else 'number', len(arrays) - 1]
    if isinstance(value, Tensor):
        return ['tensor', _encoded(value.numpy(), arrays)]
    if type(value) in (list, tuple):
        return [kind, [_encoded(item, arrays) for item in value]]
    if type(value) is dict:
        return [kind, [[_encoded(k, arrays), _encoded(v, arrays)] for k, v in value.items()]]
    if kind == 'HorizontalBoxes':
        return [kind, _encoded(value.tensor, arrays)]
    if kind in ('BitmapMasks', 'PolygonMasks'):
        return [kind, [_encoded(value.masks, arrays), int(value.height), int(value.width)]]
    raise ConfigError(
        f"dataset.cache_folder: the pipeline's first steps give a {kind}, which no file keeps; "
        'use cache_prefix without cache_folder'
    )


def _decoded(value: Any, arrays: list[Any], data: bytearray) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind in ('array', 'number'):
        dtype, shape, offset = arrays[content]
        count = int(np.prod(shape))
        found = np.frombuffer(data, dtype, count, offset).reshape(shape)
        return found if kind == 'array' else found[()]
    if kind == 'dict':
        return {_decoded(k, arrays, data): _decoded(v, arrays, data) for k, v in content}
    if kind in ('list', 'tuple'):
        items = [_decoded(item, arrays, data) for item in content]
        return items if kind == 'list' else tuple(items)
    if kind == 'tensor':
        return torch.from_numpy(_decoded(content, arrays, data))
    from mmdet.structures import bbox, mask

    if kind == 'HorizontalBoxes':
        return bbox.HorizontalBoxes(_decoded(content, arrays, data), clone=False)
    masks, height, width = content
    return getattr(mask, kind)(_decoded(masks, arrays, data), height, width)


def _described(step: Callable) -> str:
    """Return a step's class and values; its `repr` alone may leave some out."""
    values = {key: value for key, value in vars(step).items() if _is_plain(value)}
    name = f'{type(step).__module__}.{type(step).__qualname__}'
    return f'{name} {sorted(values.items())} {ADDRESS.sub("", repr(step))}'


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool | type)
