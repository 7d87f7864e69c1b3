"""Image files that cannot be used, and data sets that say so."""

import os

import cv2
import numpy as np
from mmengine import fileio

# What a data set's info names files by.
FILES = ('img_path', 'seg_map_path')


class UnreadableImage(ValueError):
    """An image file is missing, empty, cut off or no image; the message begins with its path."""


def read_whole(path, backend_args=None, decode=False):
    """Read an image file's bytes and check that they are whole.

    Whether a decoder refuses a cut JPEG or PNG or fills what it lacks with grey depends on library and version (OpenCV 4.12
    refuses), so their end marks are looked for; that costs no decoding.

    Args:
        path (str): A file.
        backend_args (dict, optional): mmengine's.
        decode (bool): Also try whether OpenCV reads the bytes. Default: False.

    Raises:
        UnreadableImage: If the file cannot be used.
    """
    try:
        data = fileio.get(path, backend_args=backend_args)
    except OSError as error:
        raise _unreadable(path, f'cannot be read: {error.strerror or error}') from error
    if not data:
        raise _unreadable(path, 'is empty (0 bytes)')
    if data.startswith(b'\xff\xd8') and data.rfind(b'\xff\xd9') <= data.rfind(b'\xff\xda'):
        raise _unreadable(path, f'is cut off: a JPEG without its end, {len(data)} bytes')
    if data.startswith(b'\x89PNG') and b'IEND' not in data:
        raise _unreadable(path, f'is cut off: a PNG without its end, {len(data)} bytes')
    if decode and cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is None:
        raise _unreadable(path, 'is no image that OpenCV can read')
    return data


def _unreadable(path, why):
    where = path if '://' in path else os.path.abspath(path)
    return UnreadableImage(f'{where} {why}')


def load_whole(dataset, index, load):
    """Return `load(index)`, with an `UnreadableImage` where one of the item's files cannot be used.

    Args:
        dataset: With `get_data_info`.
        index (int): The item.
        load (callable): What reads it; its other errors pass unchanged.
    """
    info = dataset.get_data_info(index)
    paths = [info[key] for key in FILES if isinstance(info.get(key), str)]
    options = getattr(dataset, 'backend_args', None)
    for path in paths:
        read_whole(path, options)
    try:
        return load(index)
    except Exception:
        for path in paths:  # is it the file's fault?
            read_whole(path, options, decode=True)
        raise


class StopAtUnreadable:
    """Mixin of mmkd's data sets: an image file that cannot be used ends the run with an `UnreadableImage` that names it."""

    def prepare_data(self, idx):
        """Load an item as the toolbox does."""
        return load_whole(self, idx, super().prepare_data)
