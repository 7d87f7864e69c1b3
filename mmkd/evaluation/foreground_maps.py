"""Measures of a foreground map against a binary mask, of one image.

A map is an array (H, W) of probabilities as `stretched` gives it, a mask one of bool. Definitions
are those of the evaluation code of PraNet (Fan et al., arXiv 2006.11392), with whose figures polyp
papers compare. Empty masks are treated as its successor PySODMetrics does, unless said otherwise.
"""

import numpy as np

# Keeps quotients finite, MATLAB's `eps`.
EPS = np.spacing(1)
LEVELS = 256


def stretched(probability: np.ndarray) -> np.ndarray:
    """Return the map with its values stretched to [0, 1]; a constant map stays as it is."""
    values = probability.astype(np.float64)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else values


def counts_by_threshold(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the true and false positive pixels at 256 thresholds, 255/255 first, 0 last."""
    levels = (values * (LEVELS - 1)).astype(np.uint8)
    inside = np.bincount(levels[mask], minlength=LEVELS)
    outside = np.bincount(levels[~mask], minlength=LEVELS)
    return np.cumsum(inside[::-1]), np.cumsum(outside[::-1])


def overlap_curves(hits: np.ndarray, false: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Dice and IoU at each threshold.

    Where the mask is empty and nothing is predicted, both are 1, as at the single threshold 0.5
    (PySODMetrics: 0).

    Args:
        hits: True positives at each threshold, (256,).
        false: False positives, (256,).
        size: Pixels of the mask.
    """
    union = size + false
    empty = union == 0
    union = np.where(empty, 1, union)
    iou = np.where(empty, 1.0, hits / union)
    return 2 * iou / (1 + iou), iou


def alignment_curve(hits: np.ndarray, false: np.ndarray, size: int, pixels: int) -> np.ndarray:
    """Return the enhanced-alignment measure at each threshold (Fan et al., IJCAI 2018, eq. 2-4).

    A pixel's alignment is `2ab / (a^2 + b^2)` of the mask's and the binary map's deviations from
    their means, and counts as `(1 + alignment)^2 / 4`. For an empty mask the measure is the share
    of background that is predicted, for a full one that of foreground.

    Args:
        hits: True positives at each threshold, (256,).
        false: False positives, (256,).
        size: Pixels of the mask.
        pixels: Pixels of the image.
    """
    predicted = hits + false
    if size == 0:
        total = pixels - predicted
    elif size == pixels:
        total = predicted
    else:
        mean, mask_mean = predicted / pixels, size / pixels
        total = np.zeros(len(hits))
        parts = [(1, 1, hits), (1, 0, false), (0, 1, size - hits)]
        parts.append((0, 0, pixels - size - false))
        for value, truth, count in parts:
            a, b = value - mean, truth - mask_mean
            alignment = 2 * a * b / (a * a + b * b + EPS)
            total = total + count * (1 + alignment) ** 2 / 4
    return total / (pixels - 1 + EPS)


def weighted_f(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the weighted F-measure with beta = 1 (Margolin et al., CVPR 2014).

    Errors inside the mask are smoothed with their neighbors' (a Gaussian of 7 x 7 pixels, sigma 5),
    those outside grow with the distance from the mask to twice their size. 0 for an empty mask.
    """
    from scipy.ndimage import convolve, distance_transform_edt

    if not mask.any():
        return 0.0
    distance, nearest = distance_transform_edt(~mask, return_indices=True)
    error = np.abs(values - mask)
    # Outside, the error at the nearest pixel of the mask, so that its border is smoothed rightly.
    smoothed = convolve(error[tuple(nearest)], _gaussian(), mode='constant')
    error = np.where(mask, np.minimum(error, smoothed), error)
    inside = error[mask]
    outside = (error * (2 - 0.5 ** (distance / 5)))[~mask].sum()
    recall = 1 - inside.mean()
    found = mask.sum() - inside.sum()
    precision = found / (found + outside + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def _gaussian() -> np.ndarray:
    axis = np.arange(-3, 4)
    kernel = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 5**2))
    return kernel / kernel.sum()


def hausdorff_95(predicted: np.ndarray, mask: np.ndarray) -> float:
    """Return the 95th percentile of the distances between two masks' contours, in pixels.

    As MedPy's `hd95`: of each contour pixel of either mask (a pixel with one of its four neighbors
    outside) the distance to the other contour, all pooled. Where both masks are empty it is 0;
    where one is, the diagonal of the image, the largest possible distance (mmkd's choice).

    Args:
        predicted: The predicted mask, bool, (H, W).
        mask: The true one.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt

    if not predicted.any() or not mask.any():
        return float(np.hypot(*mask.shape)) if predicted.any() or mask.any() else 0.0
    contours = [part & ~binary_erosion(part) for part in (predicted, mask)]
    to_predicted, to_mask = (distance_transform_edt(~contour) for contour in contours)
    distances = np.concatenate([to_mask[contours[0]], to_predicted[contours[1]]])
    return float(np.percentile(distances, 95))


def structure_measure(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the structure measure with alpha = 0.5 (Fan et al., ICCV 2017).

    Half the similarity of the values inside and outside the mask, half that of the four quarters
    around the mask's center. For an empty mask it is 1 minus the mean of the map, for a full one
    the mean.
    """
    share = mask.mean()
    if share in (0, 1):
        return float(values.mean() if share else 1 - values.mean())
    objects = share * _object_score(values[mask]) + (1 - share) * _object_score(1 - values[~mask])
    return float(max(0.0, (objects + _region_score(values, mask)) / 2))


def _object_score(values: np.ndarray) -> float:
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + EPS)


def _region_score(values: np.ndarray, mask: np.ndarray) -> float:
    # The quarter up and left includes the center, as in the authors' code.
    y, x = np.argwhere(mask).mean(axis=0).round().astype(int) + 1
    score = 0.0
    for rows in (slice(0, y), slice(y, None)):
        for columns in (slice(0, x), slice(x, None)):
            part = mask[rows, columns]
            if part.size:
                score += part.size / mask.size * _similarity(values[rows, columns], part)
    return score


def _similarity(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the quarters' form of SSIM, without its constants."""
    x, y, n = values.mean(), mask.mean(), values.size - 1 + EPS
    product = 4 * x * y * ((values - x) * (mask - y)).sum() / n
    norm = (x**2 + y**2) * (((values - x) ** 2).sum() + ((mask - y) ** 2).sum()) / n
    if product != 0:
        return product / (norm + EPS)
    return 1.0 if norm == 0 else 0.0
