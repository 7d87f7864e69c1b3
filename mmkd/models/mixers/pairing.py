"""Which image of a batch is mixed with which, and the box that CutMix cuts."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmkd.tasks.types import Box


def local_partners(
    classes: Sequence[frozenset],
    same: Callable[[frozenset, frozenset], bool],
    generator: torch.Generator,
) -> list[int | None]:
    """Draw for each image another one of the same class.

    Args:
        classes: Each image's classes.
        same: Whether two images' classes count as the same.
        generator: Where the choice is drawn from.

    Returns:
        Index of each image's partner, None for an image without one.
    """
    partners: list[int | None] = []
    for i, own in enumerate(classes):
        others = [j for j, other in enumerate(classes) if j != i and same(own, other)]
        partners.append(
            others[int(torch.randint(len(others), (), generator=generator))] if others else None
        )
    return partners


def global_partners(classes: Sequence[frozenset], generator: torch.Generator) -> Tensor:
    """Draw a permutation that pairs as many images as possible with one of other classes.

    The images, shuffled, are ordered by class and turned by at least the size of the largest class:
    then no image of a class that has at most half of the batch meets its own, and of a larger class
    as few as can be.

    Args:
        classes: Each image's classes.
        generator: Where the permutation is drawn from.

    Returns:
        Indices (N,), on the CPU; no image is paired with itself unless it is alone.
    """
    groups: dict[frozenset, list[int]] = {}
    for i in torch.randperm(len(classes), generator=generator).tolist():
        groups.setdefault(classes[i], []).append(i)
    order = [i for group in groups.values() for i in group]
    largest = max(map(len, groups.values()))
    shift = largest
    if largest == len(order):
        shift = 1
    elif largest < len(order) - largest:
        shift += int(torch.randint(len(order) - 2 * largest + 1, (), generator=generator))
    partners = torch.empty(len(order), dtype=torch.long)
    partners[torch.tensor(order)] = torch.tensor(order).roll(-shift)
    return partners


def cut_box(height: int, width: int, lam: float, center: tuple[float, float]) -> tuple[Box, float]:
    """Return CutMix's box (arXiv 1905.04899), sides sqrt(1 - lam) of the image's, clipped to it.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        lam: Share of the image that the box should leave, in [0, 1].
        center: The box's center, y and x, as shares of height and width.

    Returns:
        The box (top, bottom, left, right) in pixels, and the share of the image that it leaves,
        which is larger than `lam` where the box was clipped.
    """
    ratio = (1 - lam) ** 0.5
    sides = []
    for size, share in zip((height, width), center):
        length, middle = round(size * ratio), int(size * share)
        start = middle - length // 2
        sides += [max(start, 0), min(start + length, size)]
    top, bottom, left, right = sides
    return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (height * width)
