"""Checks of a COCO annotation file, before a toolbox reads it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mmkd.utils.errors import ConfigError

LARGEST = 1e9  # pixels
# What mmdet reads of each entry; without a check it fails with a bare KeyError.
ENTRIES = dict(
    images=('id', 'file_name', 'height', 'width'),
    annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
    categories=('id', 'name'),
)


def check_coco(content: Any, path: str, classes: Sequence[str]) -> list[str]:
    """Check the content of a COCO file for what mmdet fails at, or leaves out without a word.

    Args:
        content: The decoded JSON file.
        path: The file, for messages.
        classes: Names of the classes that are read.

    Returns:
        Warnings: what will be left out, and why, with counts.

    Raises:
        ConfigError: If the content is no COCO data set of these classes, or no box could be used.
    """
    _check_entries(content, path)
    names = [category['name'] for category in content['categories']]
    # pycocotools drops what it does not know: a file of another class would have no boxes.
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ConfigError(
            f'{path}: no category {unknown[0]!r} (it has {names}); '
            'set metainfo=dict(classes=...) to the names in the file'
        )
    if not content['images']:
        raise ConfigError(f'{path} lists no images')
    warnings = []
    files = Counter(image['file_name'] for image in content['images'])
    several = [name for name, count in files.items() if count > 1]
    if several:
        warnings.append(
            f'{path}: {len(several)} files are listed as several images: {_listed(several)}'
        )
    return warnings + _check_boxes(content, path, classes)


def _check_entries(content: Any, path: str) -> None:
    wrong = f'{path} is no COCO annotation file: '
    for kind, keys in ENTRIES.items():
        entries = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ConfigError(f'{wrong}expected a dict with a list {kind!r}')
        seen: set[int | str] = set()
        for i, entry in enumerate(entries):
            place = f'{kind}[{i}]'
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise ConfigError(f'{wrong}{place} has no {missing[0]!r}')
            for key in ('id', 'image_id', 'category_id'):
                value = entry.get(key, 0)
                if isinstance(value, bool) or not isinstance(value, (int, str)):
                    raise ConfigError(f'{wrong}{place} has {key} {value!r}, expected an integer')
            if entry['id'] in seen:
                raise ConfigError(f'{path}: {place} has id {entry["id"]!r} of an entry before it')
            seen.add(entry['id'])
            text = dict(images='file_name', categories='name').get(kind)
            if text and not (isinstance(entry[text], str) and entry[text]):
                raise ConfigError(f'{wrong}{place} has {text} {entry[text]!r}, expected a text')
    for i, image in enumerate(content['images']):
        for key in ('width', 'height'):
            if type(image[key]) is not int or image[key] < 1:
                raise ConfigError(
                    f'{path}: images[{i}] has {key} {image[key]!r}, expected a number of pixels'
                )


def _check_boxes(content: dict, path: str, classes: Sequence[str]) -> list[str]:
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    categories = {category['id']: category['name'] for category in content['categories']}
    unusable, ignored, others = [], [], []
    for i, entry in enumerate(content['annotations']):
        place = f'annotations[{i}]'
        for key, kind, known in (
            ('image_id', 'images', sizes),
            ('category_id', 'categories', categories),
        ):
            if entry[key] not in known:
                raise ConfigError(
                    f'{path}: {place} has {key} {entry[key]!r}, which no entry of {kind} has'
                )
        box, area = entry['bbox'], entry['area']
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise ConfigError(
                f'{path}: {place} has bbox {box}, expected [x, y, width, height] in pixels'
            )
        if not _is_number(area):
            raise ConfigError(f'{path}: {place} has area {area!r}, expected a number of pixels')
        if categories[entry['category_id']] not in classes:
            others.append(place)
        elif entry.get('ignore'):
            ignored.append(place)
        else:
            problem = _box_problem(box, area, sizes[entry['image_id']])
            if problem:
                unusable.append(f'{place}: {problem}')
    count = len(content['annotations'])
    if count and len(unusable) + len(ignored) + len(others) == count:
        first = (*unusable, *ignored, *others)[0]
        raise ConfigError(
            f'{path}: none of {count} boxes can be used ({len(unusable)} below one pixel, outside '
            f'their image or of area 0, {len(ignored)} with ignore, {len(others)} of other classes)'
            f': {first}'
        )
    return [
        f'{path}: {len(found)} of {count} boxes are left out, {why}: {_listed(found)}'
        for found, why in (
            (unusable, 'below one pixel, outside their image or of area 0'),
            (ignored, "because of their 'ignore' (COCO marks regions to ignore by 'iscrowd')"),
            (others, f'of categories that are not among the classes {tuple(classes)}'),
        )
        if found
    ]


def _box_problem(box: list[float], area: float, size: tuple[int, int]) -> str | None:
    """Return why mmdet leaves a box out, or None."""
    (x, y, w, h), (width, height) = box, size
    outside = min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0)
    if w < 1 or h < 1 or outside:
        return f'bbox {box} in an image of {width} x {height}'
    return f'area {area} of bbox {box}' if area <= 0 else None


def _is_number(value: Any) -> bool:
    return (
        type(value) in (int, float) and -LARGEST < value < LARGEST
    )  # also neither NaN nor infinite


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
