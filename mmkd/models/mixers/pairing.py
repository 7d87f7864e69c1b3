"""Which image of a batch is mixed with which, and the box that CutMix cuts."""

import torch


def local_partners(classes, same, generator):
    """Draw for each image another one of the same class.

    Args:
        classes (list[frozenset]): Each image's classes.
        same (Callable): Whether two images' classes count as the same.
        generator (torch.Generator): Where the choice is drawn from.

    Returns:
        list[int | None]: Index of each image's partner, None for an image without one.
    """
    partners = []
    for i, own in enumerate(classes):
        others = [j for j, other in enumerate(classes) if j != i and same(own, other)]
        partners.append(
            others[torch.randint(len(others), (), generator=generator)] if others else None
        )
    return partners


def global_partners(classes, generator):
    """Draw a permutation that pairs as many images as possible with one of other classes.

    The images, shuffled, are ordered by class and turned by at least the size of the largest class: then no image of a
    class that has at most half of the batch meets its own, and of a larger class as few as can be.

    Args:
        classes (list[frozenset]): Each image's classes.
        generator (torch.Generator): Where the permutation is drawn from.

    Returns:
        Tensor: Indices (N, ), on the CPU; no image is paired with itself unless it is alone.
    """
    groups = {}
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


def cut_box(height, width, lam, center):
    """Return CutMix's box (arXiv 1905.04899), sides sqrt(1 - lam) of the image's, clipped to the image.

    Args:
        height, width (int): Of the image, in pixels.
        lam (float): Share of the image that the box should leave, in [0, 1].
        center (tuple[float, float]): The box's centre, y and x, as shares of height and width.

    Returns:
        tuple: The box (top, bottom, left, right) in pixels, and the share of the image that it leaves, which is larger
        than `lam` where the box was clipped.
    """
    ratio = (1 - lam) ** 0.5
    sides = []
    for size, share in zip((height, width), center):
        length, middle = round(size * ratio), int(size * share)
        start = middle - length // 2
        sides += [max(start, 0), min(start + length, size)]
    top, bottom, left, right = sides
    return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (height * width)
