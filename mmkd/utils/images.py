"""Reading, checking and writing of image files."""

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmkd.utils.errors import ConfigError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')


def image_problem(data: bytes, decode: bool = False) -> str | None:
    """Return what makes the bytes of an image file unusable, or None.

    A decoder may refuse a file that was cut off or fill the rest with gray: that depends on library
    and version (OpenCV 4.12 refuses). The end marks of JPEG and PNG are therefore always looked
    for, which costs no decoding.

    Args:
        data: The whole file.
        decode: Also decode it to its last pixel, with Pillow and with OpenCV, which training uses.
            Default: False.

    Returns:
        The problem as the rest of a sentence that begins with the file's name.
    """
    if not data:
        return 'is empty (0 bytes)'
    if data.startswith(b'\xff\xd8') and data.rfind(b'\xff\xd9') <= data.rfind(b'\xff\xda'):
        return f'is cut off: a JPEG without its end, {len(data)} bytes'
    if data.startswith(b'\x89PNG') and b'IEND' not in data:
        return f'is cut off: a PNG without its end, {len(data)} bytes'
    return load_image(data)[1] if decode else None


def load_image(
    data: bytes, flags: int = cv2.IMREAD_UNCHANGED
) -> tuple[np.ndarray | None, str | None]:
    """Decode an image file's bytes and check them to the last one.

    Args:
        data: The whole file.
        flags: OpenCV's flags. Default: as it is stored.

    Returns:
        The image (None if it cannot be used), and the problem as `image_problem` has it, or None.
    """
    problem = image_problem(data) or _pillow_problem(data)
    image = None if problem else decode_image(data, flags)
    if image is None:
        return None, problem or 'is no image that OpenCV can read'
    return image, None


def _pillow_problem(data: bytes) -> str | None:
    """Return what Pillow, which notices more damage than OpenCV, says against a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(data)) as image:
                image.verify()  # the checksums and the end mark, which load() does not look at
            with Image.open(io.BytesIO(data)) as image:
                image.load()
    except UnidentifiedImageError:
        pass  # a format that OpenCV alone may know
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return f'has more than {limit:.0f} million pixels, the most that Pillow reads'
    except Exception as error:  # a broken file raises nearly anything: OSError, struct.error, ...
        return f'is damaged: {error}'
    return None


def decode_image(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Decode an image file's bytes with OpenCV; None if it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # more pixels than its limit
        return None


def read_image(path: str | Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Read an image, also from a path with non-ASCII names; None if it cannot be decoded."""
    return decode_image(Path(path).read_bytes(), flags)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write an image, also to a path with non-ASCII names.

    Raises:
        ConfigError: If OpenCV cannot encode it in the format that the suffix names.
    """
    ok, data = cv2.imencode(Path(path).suffix, image)
    if not ok:
        raise ConfigError(f'cannot encode {path}')
    data.tofile(path)


def is_listable(name: str) -> bool:
    """Return whether a name survives being written to and read from a UTF-8 text list."""
    try:
        name.encode('utf-8')
    except UnicodeEncodeError:
        return False
    return name == name.strip() and '\n' not in name and '\r' not in name


def printable(name: str) -> str:
    """Return a name as one line that every terminal, log and JSON file takes."""
    return name if is_listable(name) else ascii(name)
