"""Reading and writing of images and of whole data set folders."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from mmkd.utils.errors import ConfigError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')


def read_image(path, flags=cv2.IMREAD_COLOR):
    """Read an image, also from a path with non-ASCII names; None if it cannot be read."""
    data = np.fromfile(path, dtype=np.uint8)
    return cv2.imdecode(data, flags) if data.size else None


def write_image(path, image):
    """Write an image, also to a path with non-ASCII names."""
    ok, data = cv2.imencode(Path(path).suffix, image)
    if not ok:
        raise ConfigError(f'cannot encode {path}')
    data.tofile(path)


def coco(images, annotations):
    """Return a COCO dict with the category `polyp` (id 1)."""
    return dict(images=images, annotations=annotations, categories=[dict(id=1, name='polyp')])


def write_json(path, content):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


@contextlib.contextmanager
def whole_folder(out, overwrite=False):
    """Give a temporary folder that becomes `out` if the block ends well, and leaves nothing behind if not.

    Args:
        out (str): The folder to come.
        overwrite (bool): Replace what is there, if it is a set with `annotations/` or an empty folder. Default: False.

    Raises:
        FileExistsError: If `out` is there already and is not to be overwritten, or is something else than such a set.
        ConfigError: If nothing can be written beside `out`.
    """
    out = Path(out).resolve()
    if out.exists() and not overwrite:
        raise FileExistsError(
            f'{out} is there already; remove it, name another folder, or use --overwrite'
        )
    if (
        out.exists()
        and not (out / 'annotations').is_dir()
        and (out.is_file() or any(out.iterdir()))
    ):
        raise FileExistsError(
            f"{out} is no data set of mmkd's (it has no annotations/): --overwrite leaves it alone"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    except OSError as error:
        raise ConfigError(f'{out}: cannot write there: {error.strerror}') from error
    new, old = temporary / 'new', temporary / 'old'
    new.mkdir()
    try:
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
