"""From folders of images and masks to COCO boxes and MMSegmentation's layout."""

import shutil
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import track_iter_progress
from PIL import Image

from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import IMAGE_SUFFIXES, read_image, write_image
from .output import coco, whole_folder, write_json

# A connected component smaller than this share of the image's area is a speck of the drawn mask, no polyp.
SPECK_SHARE = 2e-4
# ... and so is one below 4 x 4 pixels, whatever the image's size.
SPECK_PIXELS = 16
SPLITS = ('train', 'val', 'test')


@dataclass
class Report:
    """What a conversion found: counts by split, and the names of files it could not use."""

    images: dict = field(default_factory=dict)
    boxes: dict = field(default_factory=dict)
    negatives: dict = field(default_factory=dict)
    unreadable: list = field(default_factory=list)
    other_size: list = field(default_factory=list)
    empty: list = field(default_factory=list)
    specks_only: list = field(default_factory=list)
    without_mask: list = field(default_factory=list)
    without_image: list = field(default_factory=list)
    in_no_list: list = field(default_factory=list)

    @property
    def left_out(self):
        return self.unreadable + self.other_size + self.without_mask

    def table(self):
        """Return the counts by split, then a line for each kind of finding, with names."""
        lines = [f'{"split":8}{"images":>8}{"boxes":>8}{"without polyp":>15}']
        for split in self.images:
            lines.append(
                f'{split:8}{self.images[split]:8}{self.boxes[split]:8}{self.negatives[split]:15}'
            )
        for what, names in (
            ('unreadable, left out', self.unreadable),
            ('mask of another size, left out', self.other_size),
            ('image without mask, left out', self.without_mask),
            ('mask without image', self.without_image),
            ('in no split list, left out', self.in_no_list),
            ('empty mask, kept as negative', self.empty),
            ('mask of specks alone, kept as negative', self.specks_only),
        ):
            if names:
                lines.append(
                    f'{what}: {len(names)}: {", ".join(names[:20])}{", ..." if len(names) > 20 else ""}'
                )
        return '\n'.join(lines)


def stem_of(name):
    """Return a file's stem; composed, because macOS writes an accented letter as two characters."""
    return unicodedata.normalize('NFC', Path(name).stem)


def files_by_stem(folder, what):
    """Return {stem: path} of the images in `folder`.

    Raises:
        FileNotFoundError: If there is no such folder or no image in it.
        ConfigError: If two files have one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'{what}: no folder {str(folder)!r} (from {Path.cwd()})')
    files = {}
    for path in sorted(folder.iterdir()):
        if (
            path.suffix.lower() in IMAGE_SUFFIXES
            and path.is_file()
            and not path.name.startswith('.')
        ):
            stem = stem_of(path.name)
            if stem in files:
                raise ConfigError(f'{what}: {files[stem].name} and {path.name} have the same stem')
            files[stem] = path
    if not files:
        raise FileNotFoundError(
            f'{what}: no image ({", ".join(IMAGE_SUFFIXES)}) in {str(folder)!r}'
        )
    return files


def is_whole(path):
    """Whether an image file is complete: Pillow refuses a cut one, OpenCV depends on its version (4.12 refuses)."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def read_mask(path):
    """Read a mask of any depth as (H, W) uint8 0 or 1; None if unreadable.

    Foreground is what lies above half of the full scale (255, or 65535 where such values occur), so that the noise of a
    JPEG mask is none; in a file with no value above 1 (a label map, not JPEG) it is 1. Colours count by their brightest
    channel, an alpha channel is ignored.
    """
    mask = read_image(path, cv2.IMREAD_UNCHANGED) if is_whole(path) else None
    if mask is None:
        return None
    if mask.ndim == 3:
        mask = mask[..., :3].max(-1)
    top = mask.max()
    if top <= 1 and path.suffix.lower() not in ('.jpg', '.jpeg'):
        return (mask > 0).astype(np.uint8)
    return (mask > (127 if top <= 255 else 32767)).astype(np.uint8)


def components(mask, min_area=None):
    """Find the polyps of a mask: its connected components (8-neighbours) without specks.

    Args:
        mask (np.ndarray): (H, W) uint8, 0 or 1.
        min_area (float, optional): The least area: below 1 a share of the image's area, else pixels.
            Default: 2e-4 of the image's area, and 16 pixels at least.

    Returns:
        tuple[list, np.ndarray]: A list of [x, y, width, height, area] in pixels, and the mask without specks.
    """
    if min_area is None:
        least = max(SPECK_SHARE * mask.size, SPECK_PIXELS)
    else:
        least = min_area * mask.size if min_area < 1 else min_area
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= least
    kept[0] = False  # the background
    return stats[kept].tolist(), kept[labels].astype(np.uint8)


def read_splits(lists, stems):
    """Read split lists (a file stem a line; a suffix is ignored).

    Args:
        lists (dict[str, str]): Path of the list by split (`train`, `val`, `test`).
        stems (iterable[str]): All known stems.

    Raises:
        FileNotFoundError: If a list is missing.
        ConfigError: For unknown splits, unknown stems, empty lists, and stems in two splits or twice in one.
    """
    stems, splits, seen = set(stems), {}, {}
    for split, path in lists.items():
        choose(split, SPLITS, '--split')
        if not Path(path).is_file():
            raise FileNotFoundError(f'--split {split}: no file {str(path)!r} (from {Path.cwd()})')
        lines = Path(path).read_text(encoding='utf-8-sig', errors='replace').splitlines()
        names = [unicodedata.normalize('NFC', line.strip()) for line in lines if line.strip()]
        splits[split] = [
            n if n in stems or Path(n).suffix.lower() not in IMAGE_SUFFIXES else stem_of(n)
            for n in names
        ]
        if not names:
            raise ConfigError(f'--split {split}: {str(path)!r} lists no names')
        unknown = [stem for stem in splits[split] if stem not in stems]
        if unknown:
            listed = ', '.join(unknown[:10]) + (', ...' if len(unknown) > 10 else '')
            raise ConfigError(
                f'--split {split}: {len(unknown)} of {len(names)} names in {str(path)!r} have no image: '
                f'{listed}'
            )
        for stem in splits[split]:
            if stem in seen:
                raise ConfigError(f'--split: {stem!r} is in {seen[stem]!r} and again in {split!r}')
            seen[stem] = split
    return splits


def convert_polyps(
    images,
    masks,
    out,
    splits=None,
    train_ratio=0.9,
    seed=0,
    min_area=None,
    strict=False,
    overwrite=False,
):
    """Convert a folder of images and one of masks, matched by file stem, whole or not at all.

    Written: `images/<split>/` (copies), `masks/<split>/*.png` (label maps: 0 background, 1 polyp),
    `annotations/<split>.json` (COCO boxes, one per connected component).

    Args:
        images, masks (str): Folders.
        out (str): Folder to write.
        splits (dict[str, str], optional): Split lists. Default: a random cut into `train` and `val`.
        train_ratio (float): Share of `train` in the random cut. Default: 0.9.
        seed (int): Of the random cut. Default: 0.
        min_area (float, optional): Smaller components are dropped: below 1 a share of the image's area, else pixels.
            Default: 2e-4 of the image's area, and 16 pixels at least.
        strict (bool): Fail where a file cannot be used, instead of leaving it out. Default: False.
        overwrite (bool): Replace `out`. Default: False.

    Returns:
        Report: Counts and the names of what was left out. Images with an empty mask stay, as negatives.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: With one message that names the file.
    """
    if not 0 < train_ratio < 1:
        raise ConfigError(f'--train-ratio: expected a share in (0, 1), got {train_ratio}')
    if min_area is not None and not 0 <= min_area < float('inf'):
        raise ConfigError(
            f"--min-area: expected a share of the image's area below 1, or pixels, got {min_area}"
        )
    target = Path(out).resolve()
    for what, folder in (('IMAGES', images), ('MASKS', masks)):
        source = Path(folder).resolve()
        if target == source or target in source.parents or source in target.parents:
            raise ConfigError(f'OUT: {str(out)!r} must lie apart from {what} {str(folder)!r}')
    image_files, mask_files = files_by_stem(images, 'IMAGES'), files_by_stem(masks, 'MASKS')
    both = [stem for stem in image_files if stem in mask_files]
    if not both:
        image, mask = (next(iter(files.values())).name for files in (image_files, mask_files))
        raise ConfigError(
            f'no image has a mask of the same stem: IMAGES has {image}, ..., MASKS has {mask}, ...'
        )
    report = Report()
    report.without_mask = [image_files[stem].name for stem in image_files if stem not in mask_files]
    report.without_image = [mask_files[stem].name for stem in mask_files if stem not in image_files]
    if splits:
        splits = read_splits(splits, image_files)
        listed = {stem for stems in splits.values() for stem in stems}
        report.in_no_list = [image_files[stem].name for stem in both if stem not in listed]
    else:
        order = np.random.default_rng(seed).permutation(len(both))
        cut = round(len(both) * train_ratio)
        splits = dict(
            train=[both[i] for i in sorted(order[:cut])], val=[both[i] for i in sorted(order[cut:])]
        )
    with whole_folder(out, overwrite) as folder:
        for split, stems in splits.items():
            pairs = [(image_files[stem], mask_files[stem]) for stem in stems if stem in mask_files]
            _convert_split(folder, split, pairs, min_area, report)
        if strict and report.left_out:
            raise ConfigError(
                f'--strict: {len(report.left_out)} files cannot be used\n{report.table()}'
            )
        for split, count in report.images.items():
            if not count:
                raise ConfigError(f'split {split!r}: no usable image with a mask\n{report.table()}')
    return report


def _convert_split(folder, split, pairs, min_area, report):
    for kind in ('images', 'masks'):
        (folder / kind / split).mkdir(parents=True)
    records, annotations, negatives = [], [], 0
    for path, mask_path in track_iter_progress(pairs):
        image, mask = read_image(path) if is_whole(path) else None, read_mask(mask_path)
        if image is None or mask is None:
            bad = [
                f'{kind} {file.name}'
                for kind, file, content in (('image', path, image), ('mask', mask_path, mask))
                if content is None
            ]
            report.unreadable.append(' and '.join(bad))
            continue
        if image.shape[:2] != mask.shape:
            (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape
            report.other_size.append(f'{path.name} ({w} x {h}, mask {mask_w} x {mask_h})')
            continue
        boxes, polyps = components(mask, min_area)
        if not boxes:
            negatives += 1
            (report.specks_only if mask.any() else report.empty).append(path.name)
        record = dict(
            id=len(records), file_name=path.name, height=mask.shape[0], width=mask.shape[1]
        )
        for x, y, w, h, area in boxes:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=record['id'],
                    category_id=1,
                    iscrowd=0,
                    bbox=[x, y, w, h],
                    area=area,
                )
            )
        shutil.copyfile(path, folder / 'images' / split / path.name)
        write_image(
            folder / 'masks' / split / f'{path.stem}.png', polyps
        )  # MMSegmentation looks for the image's stem
        records.append(record)
    write_json(folder / 'annotations' / f'{split}.json', coco(records, annotations))
    report.images[split], report.boxes[split], report.negatives[split] = (
        len(records),
        len(annotations),
        negatives,
    )
