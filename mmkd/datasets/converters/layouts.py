"""Pairs of images and masks in the layouts that polyp data sets are published in."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from mmkd.datasets.errors import MissingData
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import IMAGE_SUFFIXES, printable

from .box_files import box_files, match_boxes
from .files import image_names, images_below, walk
from .groups import stem_of

# Folder names in lower case, letters alone; Kvasir-SEG, PraNet's archives: images, masks;
# CVC-ClinicDB: Original, Ground Truth; CVC-300: bbdd, gtpolyp; SUN-SEG: Frame, GT. PolypGen:
# images_C1, masks_C1.
IMAGE_FOLDERS = ('images', 'image', 'original', 'originals', 'frames', 'frame', 'bbdd', 'imgs')
MASK_FOLDERS = ('masks', 'mask', 'groundtruth', 'groundtruths', 'gt', 'gtpolyp')
BOX_FOLDERS = ('annotations', 'annotation')  # LDPolypVideo, with text files in place of masks
# What some sets add to a mask's name: 100H0050_mask.jpg (PolypGen), p12.tif (ETIS, CVC-ColonDB).
MASK_AFFIX = re.compile(r'[_-](?:mask|gt|seg|segmentation|groundtruth)$|^(?:mask_|p(?=\d+$))', re.I)
# What a published split's folder begins with: Train, test1, val_images, trainset, TrainDataset.
SPLIT_WORD = re.compile(
    r'(?:(train)(?:ing)?|(val)(?:id(?:ation)?)?|(test)(?:s|ing)?)(?:data|dataset|set|val|valid)?',
    re.I,
)
FORMATS = ('png', 'tif', 'tiff')  # folders of a set's copies (CVC-ClinicDB)


class Pair(NamedTuple):
    """An image and its mask, or, of sets without masks, the text file of its boxes.

    `name` is what lists, tables and the written files call it; `path` is the image's path relative
    to its folder of images (with the set's name in front, where images lie directly in it), which
    rules for sequences are applied to; `part` is the published set it belongs to, `split` the
    published split or an empty text, `sequence` what it must stay together with (empty: nothing).
    """

    name: str
    path: str
    image: Path
    mask: Path
    part: str = ''
    split: str = ''
    sequence: str = ''


class Part(NamedTuple):
    """A set in a folder: name, published split ('' if none), two folders, number of pairs."""

    name: str
    split: str
    images: Path
    masks: Path
    pairs: int = 0


def image_files(folder: Path, what: str) -> dict[str, Path]:
    """Return the images in a folder and below it, by their relative path without suffix.

    Raises:
        MissingData: If there is no such folder, or no image in it.
        ConfigError: If two files have one stem, or the folder cannot be read.
    """
    if not folder.is_dir():
        raise MissingData(f'{what}: no folder {str(folder)!r} (from {Path.cwd()})')
    files: dict[str, Path] = {}
    for path in images_below(folder, what):
        relative = path.relative_to(folder)
        stem = (relative.parent / stem_of(path.name)).as_posix()
        if stem in files:
            raise ConfigError(
                f'{what}: {printable(files[stem].name)} and {printable(path.name)} have the '
                'same stem'
            )
        files[stem] = path
    if not files:
        raise MissingData(f'{what}: no image ({", ".join(IMAGE_SUFFIXES)}) in {str(folder)!r}')
    return files


def match(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """Return the mask of each image, by the image's stem.

    Masks have the stems of their images, or, if none has, the stems with an affix (`_mask`, `p`).

    Raises:
        ConfigError: If no mask belongs to an image, or two belong to one.
    """
    found = {stem: masks[stem] for stem in images if stem in masks}
    if found:
        return found
    for stem, path in masks.items():
        folder, slash, name = stem.rpartition('/')
        bare = folder + slash + MASK_AFFIX.sub('', name)
        if bare in found:
            raise ConfigError(
                f'MASKS: {found[bare].name} and {path.name} belong to one image, {bare!r}'
            )
        if bare in images:
            found[bare] = path
    if not found:
        image, mask = (printable(next(iter(files.values())).name) for files in (images, masks))
        raise ConfigError(
            f'no image has a mask of the same stem: IMAGES has {image}, ..., MASKS has {mask}, ...'
        )
    return found


def find_parts(folder: Path) -> tuple[list[Part], list[str]]:
    """Find the sets in a folder, at any depth: each pair of a folder of images and one of masks.

    Returns:
        The sets, and the folders with images that belong to none, each with the number of images:
        PolypGen's `negativeOnly`, for example. Of nested ones the outermost is named.

    Raises:
        MissingData: If there is no such folder.
        ConfigError: If no pair of folders is found, or a folder cannot be read.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise MissingData(f'FOLDER: no folder {str(folder)!r} (from {Path.cwd()})')
    parts, places, loose = [], [], {}
    for root, folders, names in walk(folder, 'FOLDER'):
        place = root.relative_to(folder)
        loose[place] = len(image_names(names))
        pairs = _pairs_of_folders(folders) or _with_boxes(root, folders)
        for images, masks in pairs:
            # Several pairs at one place are several sets, so each needs a name.
            name = (place / images if len(pairs) > 1 else place).as_posix()
            parts.append(Part(name, split_of(*place.parts), root / images, root / masks))
            places.append(place)
            folders[:] = [f for f in folders if f not in (images, masks)]
    if not parts:
        raise ConfigError(
            f'FOLDER: {str(folder)!r} has no folder of images ({", ".join(IMAGE_FOLDERS)}) beside '
            f'one of masks ({", ".join(MASK_FOLDERS)}); name both: IMAGES MASKS OUT'
        )
    return _without_copies(parts, folder), _in_no_set(loose, places)


def _in_no_set(loose: dict[Path, int], places: list[Path]) -> list[str]:
    """Name the folders with images outside of the sets' folders, with their numbers of images.

    Args:
        loose: Number of images in each folder.
        places: The folders that the sets' pairs of folders lie in.
    """
    with_sets = {around for place in places for around in (place, *place.parents)}
    counts: Counter[str] = Counter()
    for place, count in loose.items():
        outside = [p for p in (place, *place.parents) if p not in with_sets]
        counts[(outside[-1] if outside else place / '*').as_posix()] += count
    return [f'{name} ({n} image{"s" * (n > 1)})' for name, n in counts.items() if n]


def _pairs_of_folders(folders: list[str]) -> list[tuple[str, str]]:
    """Return (images, masks) among the folders at one place; PolypGen has several such pairs."""
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    for name in folders:
        base, _, tag = name.lower().partition('_')
        for kind, known in (('masks', MASK_FOLDERS), ('images', IMAGE_FOLDERS)):
            if re.sub(r'[^a-z]', '', name.lower()) in known:
                kinds[''].setdefault(kind, name)
            elif tag and base in known:
                kinds[tag].setdefault(kind, name)
    plain = kinds.get('', {})
    others = [name for name in folders if name not in plain.values()]
    if 'masks' in plain and 'images' not in plain and len(others) == 1:
        plain['images'] = others[0]  # ETIS, CVC-ColonDB: the images' folder has the set's name
    return [(kind['images'], kind['masks']) for kind in kinds.values() if len(kind) == 2]


def _with_boxes(root: Path, folders: list[str]) -> list[tuple[str, str]]:
    """Return (images, annotations) where text files stand in place of masks."""
    images = [name for name in folders if name.lower() in IMAGE_FOLDERS]
    boxes = [name for name in folders if name.lower() in BOX_FOLDERS]
    if len(images) != 1 or len(boxes) != 1 or not box_files(root / boxes[0]):
        return []
    return [(images[0], boxes[0])]


def split_of(*folders: str) -> str:
    """Return the published split that the names of folders tell, the outermost first; '' if none.

    A name tells it by its first word: `TestEasyDataset`, `Testing_center`, but not `Valencia`.
    """
    for name in folders:
        word = re.match(r'[^\W\d_]*', re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', name))
        found = SPLIT_WORD.fullmatch(word.group()) if word else None
        if found:
            return found[found.lastindex or 0].lower()
    return ''


def _without_copies(parts: list[Part], folder: Path) -> list[Part]:
    """Keep one of a set's copies in several formats, the first by name (CVC-ClinicDB: PNG)."""
    kept: dict[str, Part] = {}
    for part in sorted(parts):
        bare = '/'.join(p for p in Path(part.name).parts if p.lower() not in FORMATS)
        kept.setdefault(bare, part._replace(name=bare or folder.name))
    return list(kept.values())


def read_parts(parts: list[Part]) -> tuple[list[Part], list[Pair], list[str], list[str]]:
    """Pair the images and masks of the sets in a folder.

    Returns:
        The sets with their numbers of pairs, the pairs, and the names of images without mask and of
        masks without image.
    """
    pairs, counted, lonely_images, lonely_masks = [], [], [], []
    for part in parts:
        images = image_files(part.images, part.name)
        if part.masks.name.lower() in BOX_FOLDERS:
            masks = box_files(part.masks)
            matched = match_boxes(images, masks)
        else:
            masks = image_files(part.masks, part.name)
            matched = match(images, masks)
        prefix = '' if len(parts) == 1 or part.split in ('test', 'val') else f'{part.name}/'
        used = set(matched.values())
        for stem, image in images.items():
            if stem in matched:
                name = (prefix + stem).replace('/', '_')
                path = image.relative_to(part.images).as_posix()
                path = path if '/' in path else f'{Path(part.name).name}/{path}'
                pairs.append(Pair(name, path, image, matched[stem], part.name, part.split))
            else:
                lonely_images.append(image.name)
        lonely_masks += [path.name for path in masks.values() if path not in used]
        counted.append(part._replace(pairs=len(matched)))
    return counted, pairs, lonely_images, lonely_masks


def check_names(pairs: list[Pair]) -> None:
    """Raise a ConfigError if two pairs of one split would be written under one name."""
    seen: dict[tuple[str, str], str] = {}
    for pair in pairs:
        key = pair.split, pair.name
        if key in seen:
            raise ConfigError(
                f'{printable(seen[key])} and {printable(pair.path)} would have one name, '
                f'{pair.name!r}'
            )
        seen[key] = pair.path
