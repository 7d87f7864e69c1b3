"""Synthetic endoscopy-like frames with polyps, for demos and tests without data."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmkd.datasets.errors import ExistingData
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import write_image

from .masks import coco_annotation, components
from .output import coco, tracked, whole_folder, write_json


@dataclass
class SyntheticFrame:
    """A frame: `image` (H, W, 3) BGR uint8, `mask` (H, W) uint8, 0 or 1, and what follows from it.

    `boxes` (M, 4) are xyxy pixels, tight: x2 and y2 are the first column and row after the polyp.
    `label` is 1 for a frame with polyp, else 0.
    """

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    label: int


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Noise of `cells` x `cells` grains, smooth, about -1 to 1."""
    grains = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(grains, (size, size), interpolation=cv2.INTER_CUBIC)


def _mucosa(rng: np.random.Generator, size: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a wall of the bowel without polyps, (H, W, 3) float32, lit evenly."""
    tint = np.array([rng.uniform(70, 110), rng.uniform(85, 125), rng.uniform(175, 215)], np.float32)
    light = 1 + 0.16 * _smooth_noise(rng, size, 4) + 0.05 * _smooth_noise(rng, size, 12)
    for _ in range(rng.integers(1, 4)):
        # A fold: a bright ridge beside its dark shadow, along an arc.
        cx, cy, radius = rng.uniform(-1.5, 1.5, 2).tolist() + [rng.uniform(0.6, 1.8)]
        distance = (np.hypot(x - cx, y - cy) - radius) / rng.uniform(0.05, 0.12)
        light += rng.uniform(0.08, 0.2) * (
            np.exp(-(distance**2)) - np.exp(-((distance + 1.6) ** 2))
        )
    veins = np.abs(_smooth_noise(rng, size, 9)) < 0.03
    light -= 0.08 * cv2.GaussianBlur(veins.astype(np.float32), (0, 0), 0.8)
    return tint * light[..., None]


def _add_polyp(
    rng: np.random.Generator, image: np.ndarray, taken: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray | None:
    """Draw a polyp where nothing is `taken`; return its mask, or None if no place was found."""
    size = len(image)
    for _ in range(20):
        cx, cy = rng.uniform(-0.55, 0.55, 2)
        a = rng.uniform(0.13, 0.38)
        b = a * rng.uniform(0.65, 1.0)
        turn = rng.uniform(0, np.pi)
        u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / a
        v = (-(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)) / b
        angle = np.arctan2(v, u)
        wobble = sum(
            rng.uniform(-0.06, 0.06) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5)
        )
        r = np.hypot(u, v) / (1 + wobble)
        mask = r < 1
        if (
            mask.sum() >= 30
            and not (cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) & taken).any()
        ):
            break
    else:
        return None
    contrast = rng.uniform(0.35, 1.0)  # some are hard to see
    dome = np.sqrt(np.clip(1 - r**2, 0, 1))
    side = 0.5 * (u * rng.uniform(-1, 1) + v * rng.uniform(-1, 1))
    shade = 1 + contrast * (
        0.35 * dome - 0.1 + 0.18 * side - 0.3 * np.exp(-(((r - 1) / 0.12) ** 2))
    )
    texture = 1 + 0.05 * contrast * _smooth_noise(rng, size, 24)
    shift = [rng.uniform(-0.1, 0.15), rng.uniform(-0.12, 0.05), rng.uniform(-0.02, 0.12)]
    tint = 1 + contrast * np.array(shift, np.float32)
    soft = 1 / (1 + np.exp(np.clip((r - 1) * 14, -30, 30)))
    rim_shadow = 1 - 0.25 * contrast * np.exp(-((np.clip(r - 1, 0, None) / 0.2) ** 2))
    factor = (
        soft[..., None] * (shade * texture)[..., None] * tint
        + (1 - soft[..., None]) * rim_shadow[..., None]
    )
    image *= factor.astype(np.float32)
    return mask


def render_frame(seed: int, index: int, size: int = 160) -> SyntheticFrame:
    """Render one frame; it depends on its arguments alone.

    Args:
        seed: Of the set.
        index: Of the frame in the set.
        size: Height and width in pixels, at least 32. Default: 160.

    Returns:
        About one in seven has no polyp, most have one, some two or three.
    """
    if size < 32:
        raise ConfigError(f'size: expected at least 32 pixels, got {size}')
    rng = np.random.default_rng([seed, index])
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    image = _mucosa(rng, size, x, y)
    mask = np.zeros((size, size), np.uint8)
    boxes = []
    for _ in range(rng.choice(4, p=[0.15, 0.62, 0.16, 0.07])):
        polyp = _add_polyp(rng, image, mask, x, y)
        if polyp is not None:
            mask |= polyp.astype(np.uint8)
            rows, columns = np.flatnonzero(polyp.any(1)), np.flatnonzero(polyp.any(0))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    for _ in range(rng.integers(2, 9)):  # specular highlights
        cx, cy = rng.uniform(-0.8, 0.8, 2)
        spot = np.exp(
            -(((x - cx) / rng.uniform(0.01, 0.04)) ** 2 + ((y - cy) / rng.uniform(0.01, 0.04)) ** 2)
        )
        image += 190 * spot[..., None]
    vignette = 1 / (1 + np.exp((np.hypot(x, y) - rng.uniform(1.05, 1.2)) * 14))
    image = image * (0.75 + 0.3 * np.exp(-(x**2 + y**2)))[..., None] * vignette[..., None]
    image = image + rng.normal(0, 3, image.shape)
    return SyntheticFrame(
        image=image.clip(0, 255).astype(np.uint8),
        mask=mask,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        label=int(bool(boxes)),
    )


def write_synthetic_polyps(
    out: str | Path = 'data/synthetic_polyps',
    train: int = 320,
    val: int = 80,
    size: int = 160,
    seed: int = 0,
    overwrite: bool = False,
) -> bool:
    """Write a set for detection (COCO), segmentation (label maps) and classification (lists).

    It is written whole or not at all. A set that is there already with the same arguments is left
    as it is.

    Args:
        out: Folder. Default: `data/synthetic_polyps`.
        train: Number of training frames. Default: 320.
        val: Number of validation frames. Default: 80.
        size: Height and width in pixels. Default: 160.
        seed: Of the set. Default: 0.
        overwrite: Write in any case, in place of a set that is there. Default: False.

    Returns:
        Whether anything was written.

    Raises:
        ExistingData: If `out` holds something else and `overwrite` is False.
        ConfigError: For sizes, counts and seeds that make no set.
    """
    arguments = dict(train=train, val=val, size=size, seed=seed)
    if min(train, val) < 1:
        raise ConfigError(f'train, val: expected one frame at least, got {train}, {val}')
    if size < 32 or seed < 0:
        raise ConfigError(
            f'size, seed: expected 32 pixels at least and a seed of 0 or more, got {size}, {seed}'
        )
    meta = Path(out) / 'meta.json'
    if meta.is_file() and not overwrite:
        there = _arguments_of(meta)
        if there == arguments:
            return False
        raise ExistingData(
            f'{Path(out).absolute()} holds a set made with {there}, asked for is {arguments}; '
            'name another folder, or use --overwrite'
        )
    with whole_folder(out, overwrite) as folder:
        for split, first, count in (('train', 0, train), ('val', train, val)):
            _write_split(folder, split, range(first, first + count), size, seed)
        write_json(folder / 'meta.json', arguments)
    return True


def _arguments_of(meta: Path) -> object:
    try:
        return json.loads(meta.read_text())
    except ValueError as error:
        raise ConfigError(f'{meta.absolute()} is damaged: {error}; use --overwrite') from error


def _write_split(folder: Path, split: str, frames: range, size: int, seed: int) -> None:
    for kind in ('images', 'masks'):
        (folder / kind / split).mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    labels: list[str] = []
    for index, number in enumerate(tracked(frames)):
        frame = render_frame(seed, number, size)
        name = f'{index:05d}.png'
        write_image(folder / 'images' / split / name, frame.image)
        write_image(folder / 'masks' / split / name, frame.mask)
        images.append(dict(id=index, file_name=name, height=size, width=size))
        labels.append(f'{name} {frame.label}\n')
        for polyp in components(frame.mask, 0)[0]:
            annotations.append(coco_annotation(polyp, len(annotations) + 1, index))
    write_json(folder / 'annotations' / f'{split}.json', coco(images, annotations))
    (folder / 'labels').mkdir(exist_ok=True)
    (folder / 'labels' / f'{split}.txt').write_text(''.join(labels))
