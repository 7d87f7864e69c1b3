"""From folders of images and masks to COCO boxes and MMSegmentation's layout."""
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import track_iter_progress

from mmkd.utils.checks import choose

from .files import IMAGE_SUFFIXES, coco, read_image, whole_folder, write_image, write_json

# A connected component smaller than this share of the image's area is a speck of the drawn mask, no polyp.
SPECK_SHARE = 2e-4


@dataclass
class Report:
    """What a conversion found: counts by split, and the names of files it could not use."""
    images: dict = field(default_factory=dict)
    boxes: dict = field(default_factory=dict)
    unreadable: list = field(default_factory=list)
    other_size: list = field(default_factory=list)
    empty: list = field(default_factory=list)
    without_mask: list = field(default_factory=list)
    without_image: list = field(default_factory=list)

    @property
    def left_out(self):
        return self.unreadable + self.other_size + self.without_mask


def files_by_stem(folder, what):
    """Return {stem: path} of the images in `folder`.

    Raises:
        FileNotFoundError: If there is no such folder or no image in it.
        ValueError: If two files have one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'{what}: no folder {str(folder)!r} (from {Path.cwd()})')
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in files:
                raise ValueError(f'{what}: {files[path.stem].name} and {path.name} have the same stem')
            files[path.stem] = path
    if not files:
        raise FileNotFoundError(f'{what}: no image ({", ".join(IMAGE_SUFFIXES)}) in {str(folder)!r}')
    return files


def read_mask(path):
    """Read a mask of any depth as (H, W) uint8 0 or 1, foreground above half of its greatest value; None if unreadable."""
    mask = read_image(path, cv2.IMREAD_UNCHANGED)
    if mask is None:
        return None
    if mask.ndim == 3:
        mask = mask[..., :3].max(-1)
    top = mask.max()
    return (mask > top / 2).astype(np.uint8) if top else mask.astype(np.uint8)


def boxes_of(mask, speck_share=SPECK_SHARE):
    """Return one box per connected component (8-neighbours) of a 0/1 mask: list of [x, y, width, height, area]."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return [row.tolist() for row in stats[1:count] if row[cv2.CC_STAT_AREA] >= speck_share * mask.size]


def read_splits(lists, stems):
    """Read split lists (a file stem a line).

    Args:
        lists (dict[str, str]): Path of the list by split.
        stems (iterable[str]): All known stems.

    Raises:
        ValueError: For unknown stems, and stems in two splits.
    """
    stems, splits, seen = set(stems), {}, {}
    for split, path in lists.items():
        if not Path(path).is_file():
            raise FileNotFoundError(f'--split {split}: no file {str(path)!r}')
        splits[split] = [line.strip() for line in Path(path).read_text(encoding='utf-8').splitlines() if line.strip()]
        unknown = [stem for stem in splits[split] if stem not in stems]
        if unknown:
            choose(unknown[0], sorted(stems), f'--split {split}: {len(unknown)} of {len(splits[split])} names have no image; '
                   'the first')
        for stem in splits[split]:
            if stem in seen:
                raise ValueError(f'--split: {stem!r} is in {seen[stem]!r} and again in {split!r}')
            seen[stem] = split
    return splits


def convert_polyps(images, masks, out, splits=None, train_ratio=0.9, seed=0, speck_share=SPECK_SHARE, strict=False,
                   overwrite=False):
    """Convert a folder of images and one of masks, matched by file stem, whole or not at all.

    Written: `images/<split>/` (copies), `masks/<split>/*.png` (label maps: 0 background, 1 polyp),
    `annotations/<split>.json` (COCO boxes, one per connected component).

    Args:
        images, masks (str): Folders.
        out (str): Folder to write.
        splits (dict[str, str], optional): Split lists. Default: a random cut into `train` and `val`.
        train_ratio (float): Share of `train` in the random cut. Default: 0.9.
        seed (int): Of the random cut. Default: 0.
        speck_share (float): Smaller components, as a share of the image's area, are dropped. Default: 2e-4.
        strict (bool): Fail where a file cannot be used, instead of leaving it out. Default: False.
        overwrite (bool): Replace `out`. Default: False.

    Returns:
        Report: Counts and the names of what was left out. Images with an empty mask stay, as negatives.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: With one message that names the file.
    """
    if not 0 < train_ratio < 1:
        raise ValueError(f'--train-ratio: expected a share in (0, 1), got {train_ratio}')
    image_files, mask_files = files_by_stem(images, 'IMAGES'), files_by_stem(masks, 'MASKS')
    report = Report()
    report.without_mask = [image_files[stem].name for stem in image_files if stem not in mask_files]
    report.without_image = [mask_files[stem].name for stem in mask_files if stem not in image_files]
    if splits:
        splits = read_splits(splits, image_files)
    else:
        stems = sorted(set(image_files) & set(mask_files))
        order = np.random.default_rng(seed).permutation(len(stems))
        cut = round(len(stems) * train_ratio)
        splits = dict(train=[stems[i] for i in sorted(order[:cut])], val=[stems[i] for i in sorted(order[cut:])])
    with whole_folder(out, overwrite) as folder:
        for split, stems in splits.items():
            _convert_split(folder, split, [s for s in stems if s in mask_files], image_files, mask_files, speck_share, report)
            if not report.images[split]:
                raise ValueError(f'split {split!r}: no usable image with a mask')
        if strict and report.left_out:
            raise ValueError(f'--strict: {len(report.left_out)} files cannot be used: {", ".join(report.left_out[:10])}')
    return report


def _convert_split(folder, split, stems, image_files, mask_files, speck_share, report):
    for kind in ('images', 'masks'):
        (folder / kind / split).mkdir(parents=True)
    records, annotations = [], []
    for stem in track_iter_progress(stems):
        image, mask = read_image(image_files[stem]), read_mask(mask_files[stem])
        if image is None or mask is None:
            report.unreadable.append((image_files if image is None else mask_files)[stem].name)
            continue
        if image.shape[:2] != mask.shape:
            report.other_size.append(image_files[stem].name)
            continue
        record = dict(id=len(records), file_name=image_files[stem].name, height=mask.shape[0], width=mask.shape[1])
        boxes = boxes_of(mask, speck_share)
        if not boxes:
            report.empty.append(image_files[stem].name)
        for x, y, w, h, area in boxes:
            annotations.append(dict(id=len(annotations) + 1, image_id=record['id'], category_id=1, iscrowd=0,
                                    bbox=[x, y, w, h], area=area))
        shutil.copyfile(image_files[stem], folder / 'images' / split / image_files[stem].name)
        write_image(folder / 'masks' / split / f'{stem}.png', mask)
        records.append(record)
    write_json(folder / 'annotations' / f'{split}.json', coco(records, annotations))
    report.images[split], report.boxes[split] = len(records), len(annotations)
