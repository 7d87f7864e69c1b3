"""Boxes in text files beside the images, as LDPolypVideo has them in place of masks."""

from pathlib import Path

from mmkd.utils.errors import ConfigError

from .masks import Component

SUFFIX = '.txt'


def box_files(folder: Path) -> dict[str, Path]:
    """Return the text files in a folder and below it, by their relative path without suffix."""
    return {
        path.relative_to(folder).with_suffix('').as_posix(): path
        for path in sorted(folder.rglob(f'*{SUFFIX}'))
        if not path.name.startswith('.')
    }


def match_boxes(images: dict[str, Path], files: dict[str, Path]) -> dict[str, Path]:
    """Return the text file of each image, by the image's stem.

    It has the image's stem, or what stands there after the last `_` (`12/x_3_0047`: `12/0047`).
    """
    found = {}
    for stem in images:
        folder, slash, name = stem.rpartition('/')
        for key in (stem, folder + slash + name.rpartition('_')[2]):
            if key in files:
                found[stem] = files[key]
                break
    return found


def read_box_file(path: Path, width: int, height: int) -> list[Component]:
    """Read a text file: a line with the number of polyps, then a line `x1 y1 x2 y2` for each.

    Boxes are cut at the border of the image; mmkd's choice, since trackers draw over it.

    Args:
        path: The file.
        width: Of the image.
        height: Of the image.

    Raises:
        ConfigError: If it is no such file, or a box lies outside the image or is none.
        OSError: If it cannot be read.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding='utf-8-sig').splitlines()]
        count, *boxes = [[int(float(value)) for value in line] for line in lines if line]
        if count != [len(boxes)] or any(len(box) != 4 for box in boxes):
            raise ValueError(f'{len(boxes)} boxes for {count}')
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f'{path}: expected the number of polyps and a line "x1 y1 x2 y2" for each: {error}'
        ) from error
    found = []
    for x1, y1, x2, y2 in boxes:
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        if left >= right or top >= bottom:
            raise ConfigError(f'{path}: box {[x1, y1, x2, y2]} in an image of {width} x {height}')
        w, h = right - left, bottom - top
        outline = [[left, top, right, top, right, bottom, left, bottom]]
        found.append(Component(left, top, w, h, w * h, outline))
    return found
