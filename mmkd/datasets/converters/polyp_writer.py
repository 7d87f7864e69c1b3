"""Writing of one split: images, label maps and a COCO file."""

import json
from pathlib import Path

import cv2
import numpy as np

from mmkd.datasets.errors import MissingData
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import load_image, printable, write_image

from .box_files import SUFFIX, read_box_file
from .groups import stem_of
from .layouts import Pair
from .masks import Component, binary_mask, coco_annotation, components, outline
from .output import coco, tracked, write_json
from .polyp_options import PolypOptions
from .polyp_report import PolypReport

# So many masks at the beginning that look like photographs are no masks.
PHOTOS = 5
# By file stem: (width, height) of the image, and its boxes [x, y, width, height].
ListedBoxes = dict[str, tuple[tuple[int, int], list[list[int]]]]


def read_boxes(path: str | Path) -> ListedBoxes:
    """Read Kvasir-SEG's file of boxes.

    Returns:
        By file stem: (width, height) of the image, and its boxes [x, y, width, height].

    Raises:
        MissingData: If there is no such file.
        ConfigError: If it is no such file.
    """
    if not Path(path).is_file():
        raise MissingData(f'--boxes: no file {str(path)!r} (from {Path.cwd()})')
    try:
        content = json.loads(Path(path).read_bytes())
        return {
            stem_of(name): (
                (int(entry['width']), int(entry['height'])),
                [
                    [
                        int(box['xmin']),
                        int(box['ymin']),
                        int(box['xmax']) - int(box['xmin']),
                        int(box['ymax']) - int(box['ymin']),
                    ]
                    for box in entry['bbox']
                ],
            )
            for name, entry in content.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f'--boxes: {str(path)!r} is not in the form of Kvasir-SEG, '
            '{stem: {width, height, bbox: [{xmin, ymin, xmax, ymax}]}}: '
            f'{type(error).__name__}: {error}'
        ) from error


class PolypWriter:
    """Writes the images, label maps and COCO file of one split."""

    def __init__(
        self,
        folder: Path,
        split: str,
        options: PolypOptions,
        boxes: ListedBoxes | None,
        report: PolypReport,
    ) -> None:
        self.folder, self.split, self.options = folder, split, options
        self.boxes, self.report = boxes, report
        self.records: list[dict] = []
        self.annotations: list[dict] = []
        self.negatives = 0
        self.photos: list[str] = []

    def write(self, pairs: list[Pair]) -> None:
        """Write the usable ones of the pairs, and count them in the report."""
        for kind in ('images', 'masks'):
            (self.folder / kind / self.split).mkdir(parents=True)
        for i, pair in enumerate(tracked(pairs), 1):
            self._write_pair(pair)
            if i == min(PHOTOS, len(pairs)) == len(self.photos):
                raise ConfigError(
                    f'MASKS: {", ".join(self.photos)} look like photographs, not like masks; are '
                    'IMAGES and MASKS swapped?'
                )
        masks = self.folder / 'masks' / self.split
        if not any(masks.iterdir()):  # boxes alone
            masks.rmdir()
        content = coco(self.records, self.annotations)
        write_json(self.folder / 'annotations' / f'{self.split}.json', content)
        report = self.report
        report.images[self.split] = len(self.records)
        report.boxes[self.split] = len(self.annotations)
        report.negatives[self.split] = self.negatives
        suffixes = sorted({Path(record['file_name']).suffix for record in self.records})
        if len(suffixes) > 1:
            report.warnings.append(
                f'split {self.split!r} has images of several suffixes ({", ".join(suffixes)}); '
                'mmkd.PolypSegmentation reads those of its img_suffix alone'
            )

    def _write_pair(self, pair: Pair) -> None:
        if pair.mask.suffix == SUFFIX:
            self._write_boxes(pair)
            return
        image, data, image_problem = _load(pair.image, cv2.IMREAD_COLOR)
        pixels, _, mask_problem = _load(pair.mask, cv2.IMREAD_UNCHANGED)
        if image is None or pixels is None:
            bad = [
                f'{kind} {path.name}{"" if "pixels" not in problem else f" ({problem})"}'
                for kind, path, problem in (
                    ('image', pair.image, image_problem),
                    ('mask', pair.mask, mask_problem),
                )
                if problem
            ]
            self.report.unreadable.append(' and '.join(bad))
            return
        name = pair.name + pair.image.suffix
        mask = binary_mask(pixels, pair.mask.name)
        (height, width), (mask_height, mask_width) = image.shape[:2], mask.labels.shape
        if (height, width) != (mask_height, mask_width):
            self.report.other_size.append(
                f'{pair.image.name} ({width} x {height}, mask {mask_width} x {mask_height})'
            )
            return
        if mask.is_photo:
            self.photos.append(pair.mask.name)
        found, label_map = components(mask.labels, self.options.min_area)
        if self.boxes is not None:
            found = self._listed(self.boxes, pair, mask.labels)
        if not found:
            if mask.labels.any():
                self.report.specks_only.append(pair.image.name)
            else:
                (self.report.dim if mask.top > 1 else self.report.empty).append(pair.image.name)
        self._add(name, data, (height, width), found)
        # MMSegmentation looks for the image's stem.
        write_image(self.folder / 'masks' / self.split / f'{pair.name}.png', label_map)

    def _write_boxes(self, pair: Pair) -> None:
        image, data, problem = _load(pair.image, cv2.IMREAD_COLOR)
        if image is None:
            self.report.unreadable.append(f'image {pair.image.name} ({problem})')
            return
        height, width = image.shape[:2]
        found = read_box_file(pair.mask, width, height)
        if not found:
            self.report.empty.append(pair.image.name)
        self._add(pair.name + pair.image.suffix, data, (height, width), found)

    def _add(self, name: str, data: bytes, size: tuple[int, int], found: list[Component]) -> None:
        image = len(self.records)
        self.records.append(dict(id=image, file_name=name, height=size[0], width=size[1]))
        self.negatives += not found
        for polyp in found:
            number = len(self.annotations) + 1
            self.annotations.append(coco_annotation(polyp, number, image))
        (self.folder / 'images' / self.split / name).write_bytes(data)

    @staticmethod
    def _listed(listed: ListedBoxes, pair: Pair, labels: np.ndarray) -> list[Component]:
        """Return the boxes that Kvasir-SEG's file lists, with the mask's outline in each."""
        height, width = labels.shape
        key = stem_of(pair.image.name)
        if key not in listed:
            raise ConfigError(f'--boxes: no entry for {printable(key)!r}')
        size, boxes = listed[key]
        if size != (width, height):
            raise ConfigError(
                f'--boxes: {pair.image.name} has {width} x {height} pixels, the file says '
                f'{size[0]} x {size[1]}'
            )
        found = []
        for x, y, w, h in boxes:
            if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
                raise ConfigError(
                    f'--boxes: {pair.image.name}: box {[x, y, w, h]} in an image of '
                    f'{width} x {height}'
                )
            inside = labels[y : y + h, x : x + w] > 0
            if not inside.any():
                inside[:] = True  # no mask there: the box itself
            found.append(Component(x, y, w, h, int(inside.sum()), outline(inside, x, y)))
        return found


def _load(path: Path, flags: int) -> tuple[np.ndarray | None, bytes, str]:
    """Return a file's pixels (None if it cannot be used), its bytes, and what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, b'', f'cannot be read: {error.strerror}'
    pixels, problem = load_image(data, flags)
    return pixels, data, problem or ''
