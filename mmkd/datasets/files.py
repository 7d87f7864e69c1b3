"""Reading and writing of images and of whole data set folders."""
import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')


def read_image(path, flags=cv2.IMREAD_COLOR):
    """Read an image, also from a path with non-ASCII names; None if it cannot be read."""
    data = np.fromfile(path, dtype=np.uint8)
    return cv2.imdecode(data, flags) if data.size else None


def write_image(path, image):
    """Write an image, also to a path with non-ASCII names."""
    ok, data = cv2.imencode(Path(path).suffix, image)
    if not ok:
        raise ValueError(f'cannot encode {path}')
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

    Raises:
        FileExistsError: If `out` is there already and is not to be overwritten.
    """
    out = Path(out).absolute()
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} is there already; remove it, name another folder, or use --overwrite')
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
