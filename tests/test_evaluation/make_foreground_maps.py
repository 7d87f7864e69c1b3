"""Makes foreground_maps.npz and .json beside it; run where pysodmetrics and medpy are installed."""

import json
from pathlib import Path

import numpy as np
import py_sod_metrics as reference
from medpy.metric.binary import hd95

H, W = 28, 36
Y, X = np.mgrid[:H, :W]


def ellipse(y, x, ry, rx):
    return ((Y - y) / ry) ** 2 + ((X - x) / rx) ** 2


def soft(distance, steepness=4):
    return 1 / (1 + np.exp(steepness * np.minimum(distance - 1, 100)))


def cases():
    """Return pairs of probabilities and mask by name."""
    rng = np.random.default_rng(0)
    middle = ellipse(13, 17, 7, 9)
    two = (ellipse(7, 8, 4, 5) < 1) | (ellipse(20, 27, 5, 6) < 1)
    pixel = (Y == 4) & (X == 30)
    full, none = np.ones((H, W), bool), np.zeros((H, W), bool)
    return dict(
        good=(soft(middle), middle < 1),
        shifted=(soft(ellipse(15, 20, 7, 9)), middle < 1),
        noisy=(soft(middle) * 0.7 + 0.3 * rng.random((H, W)), middle < 1),
        weak=(soft(middle) * 0.3 + 0.1, middle < 1),  # above 0.5 only when stretched
        wrong_place=(soft(ellipse(5, 5, 3, 4)), ellipse(22, 30, 4, 4) < 1),
        two_polyps=(soft(ellipse(7, 8, 4, 5)), two),
        at_the_border=(soft(ellipse(0, 35, 8, 8), 8), ellipse(0, 35, 9, 7) < 1),
        binary=((ellipse(14, 16, 6, 9) < 1) * 1.0, middle < 1),
        inverted=(1 - soft(middle), middle < 1),
        one_pixel=(soft(ellipse(5, 29, 2, 2)), pixel),
        everywhere=(0.5 + 0.5 * rng.random((H, W)), full),
        no_polyp=(soft(ellipse(9, 9, 3, 3)) * 0.6, none),
        constant=(np.full((H, W), 0.6), middle < 1),
        random=(rng.random((H, W)), rng.random((H, W)) < 0.3),
    )


def measure(pairs):
    alignment, structure = reference.Emeasure(), reference.Smeasure()
    weighted, error = reference.WeightedFmeasure(), reference.MAE()
    overlap = reference.FmeasureV2(
        dict(dice=reference.DICEHandler(True, False), iou=reference.IOUHandler(True, False))
    )
    for values, mask in pairs:
        for metric in (alignment, structure, weighted, error, overlap):
            metric.step(values, mask * np.uint8(255))
    curves, e = overlap.get_results(), alignment.get_results()['em']['curve']
    values = dict(
        dice_curve=curves['dice']['dynamic'].mean(),
        iou_curve=curves['iou']['dynamic'].mean(),
        weighted_f=weighted.get_results()['wfm'],
        s_measure=structure.get_results()['sm'],
        mean_e=e.mean(),
        max_e=e.max(),
        mae=error.get_results()['mae'],
    )
    return {name: round(float(value), 6) for name, value in values.items()}


def main():
    images = {name: ((p * 255).round().astype(np.uint8), m) for name, (p, m) in cases().items()}
    expected = {name: measure([pair]) for name, pair in images.items()}
    expected['all'] = measure(images.values())
    for name, (values, mask) in images.items():
        mask_at_half = values > 127.5
        if mask.any() and mask_at_half.any():  # medpy refuses empty masks
            expected[name]['hd95'] = round(float(hd95(mask_at_half, mask)), 6)
    path = Path(__file__).with_name('foreground_maps.npz')
    maps, masks = zip(*images.values())
    np.savez_compressed(path, maps=maps, masks=masks, names=list(images))
    path.with_suffix('.json').write_text(json.dumps(expected, indent=1) + '\n')


if __name__ == '__main__':
    main()
