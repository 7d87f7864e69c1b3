"""Drawn masks: reading them, their components (polyps), boxes and outlines."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

# A component with a smaller share of the image's area is noise of the drawn mask, no polyp.
SPECK_SHARE = 2e-4
# ... and so is one below 4 x 4 pixels, whatever the image's size.
SPECK_PIXELS = 16


class Component(NamedTuple):
    """A polyp of a mask: its box in pixels, its area and its outline as COCO's list of polygons."""

    x: int
    y: int
    width: int
    height: int
    area: int
    outline: list[list[int]]


class Mask(NamedTuple):
    """A mask as 0 and 1, (H, W) uint8, its highest value, and whether it seems a photograph."""

    labels: np.ndarray
    top: int
    is_photo: bool


def binary_mask(pixels: np.ndarray, name: str) -> Mask:
    """Tell polyp from background in a decoded mask of any depth.

    Foreground is what lies above half of the full scale (255, or 65535 where such values occur), so
    that the noise of a JPEG mask is none. In a file with no value above 1 (a label map, not JPEG)
    it is 1. Colors count by their brightest channel; an alpha channel is ignored.

    Args:
        pixels: (H, W) or (H, W, channels), as stored.
        name: The file's name, whose suffix tells a JPEG.
    """
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(-1)
    top = int(pixels.max())
    if top <= 1 and Path(name).suffix.lower() not in ('.jpg', '.jpeg'):
        return Mask((pixels > 0).astype(np.uint8), top, False)
    between = ((pixels > 0.15 * top) & (pixels < 0.85 * top)).mean()
    labels = (pixels > (127 if top <= 255 else 32767)).astype(np.uint8)
    return Mask(labels, top, bool(top > 127 and between > 0.5))


def components(
    mask: np.ndarray, min_area: float | None = None
) -> tuple[list[Component], np.ndarray]:
    """Find the polyps of a mask: its connected components (8 neighbors) without specks.

    Args:
        mask: (H, W) uint8, 0 or 1.
        min_area: The least area: below 1 a share of the image's area, else pixels. Default: None
            (2e-4 of the image's area, and 16 pixels at least).

    Returns:
        The components, and the mask without specks.
    """
    if min_area is None:
        least = max(SPECK_SHARE * mask.size, SPECK_PIXELS)
    else:
        least = min_area * mask.size if min_area < 1 else min_area
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= least
    kept[0] = False  # the background
    found = []
    for index in np.flatnonzero(kept).tolist():
        x, y, w, h, area = stats[index].tolist()
        part = labels[y : y + h, x : x + w] == index
        found.append(Component(x, y, w, h, area, outline(part, x, y)))
    return found, kept[labels].astype(np.uint8)


def outline(part: np.ndarray, x: int = 0, y: int = 0) -> list[list[int]]:
    """Return the outline of a component along the borders of its pixels; holes are filled.

    OpenCV's contours go through the centers of the border pixels, and a polygon of them lacks half
    a pixel all around. Here they are traced in the mask enlarged twice and moved to the nearest
    corners.

    Args:
        part: (H, W) bool, one component.
        x: Left column of `part` in the image. Default: 0.
        y: Upper row of `part` in the image. Default: 0.

    Returns:
        One polygon [x1, y1, x2, y2, ...] in pixels, in a list as COCO has it.
    """
    twice = np.kron(part.astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = [((contour + 1) // 2 + (x, y)).astype(np.int32) for contour in contours]
    polygons = [
        cv2.approxPolyDP(polygon, 0.5, True) for polygon in corners
    ]  # fewer points, same area
    return [[int(value) for value in polygon.ravel()] for polygon in polygons]


def coco_annotation(component: Component, annotation_id: int, image_id: int) -> dict:
    """Return a component as an entry of a COCO file: box, area and outline of a polyp."""
    return dict(
        id=annotation_id,
        image_id=image_id,
        category_id=1,
        iscrowd=0,
        bbox=list(component[:4]),
        area=component.area,
        segmentation=component.outline,
    )
