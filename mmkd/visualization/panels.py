"""Pictures of what members predict, side by side, drawn with mmengine's Visualizer."""

import cv2
import numpy as np
import torch
from mmengine.visualization import Visualizer

from mmkd.utils.images import read_image

COLOURS = [
    (0, 229, 255),
    (255, 214, 0),
    (255, 109, 0),
    (234, 128, 252),
    (118, 255, 3),
    (255, 23, 68),
]
TRUTH = (0, 255, 0)
MIN_SIDE = 256  # smaller images are enlarged, so that lines and text stay readable


def _load(path):
    image = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB)
    factor = max(1.0, MIN_SIDE / min(image.shape[:2]))
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)


def titled(image, title):
    """Put a strip with a title above an image (H, W, 3)."""
    strip = np.full((24, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def _row(images):
    height = max(image.shape[0] for image in images)
    return np.concatenate(
        [
            np.pad(image, ((0, height - image.shape[0]), (0, 4), (0, 0)), constant_values=255)
            for image in images
        ],
        axis=1,
    )


def stack_rows(rows):
    """Stack pictures of several images, padded to one width, to one picture (H, W, 3)."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [
            np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255)
            for row in rows
        ]
    )


@torch.no_grad()
def member_panels(model, dataset, index):
    """Draw one image of a data set: ground truth, each member, the ensemble, and where the members disagree.

    Args:
        model (OnlineDistiller): In eval mode.
        dataset: A test data set of the model's toolbox.
        index (int): Which image.

    Returns:
        ndarray: RGB, uint8 (H, W, 3).
    """
    item = dataset[index]
    results = model.predict_members(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
    )
    samples = {name: result[0].cpu() for name, result in results.items()}
    image = _load(item['data_samples'].img_path)
    truth = model.task.truth_of(dataset, index, item['data_samples'])
    canvas, panels = Visualizer(), []

    def panel(title, draw):
        canvas.set_image(image)
        draw(canvas, image.shape[:2])
        panels.append(titled(canvas.get_image(), title))

    panel('ground truth', lambda c, size: model.task.draw(c, size, truth, TRUTH, dataset.metainfo))
    for number, (name, sample) in enumerate(samples.items()):
        colour = COLOURS[number % len(COLOURS)]
        panel(name, lambda c, size: model.task.draw(c, size, sample, colour, dataset.metainfo))
    members = {name: sample for name, sample in samples.items() if name != 'ensemble'}
    if len(members) > 1:
        panel(
            'disagreement',
            lambda c, size: model.task.draw_disagreement(
                c, size, members, COLOURS, dataset.metainfo
            ),
        )
    return _row(panels)


@torch.no_grad()
def feature_panels(model, dataset, index):
    """Draw the maps that the links' taps read from one image, mean over channels: a row a tap, the members side by side.

    Returns:
        ndarray: RGB, uint8 (H, W, 3); None if no tap of a link gives maps.
    """
    item = dataset[index]
    data = model.data_preprocessor(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']]), False
    )
    image, rows = _load(item['data_samples'].img_path), {}
    for (name, text), value in sorted(
        model.read_taps(data['inputs'], data['data_samples']).items()
    ):
        for level in value if isinstance(value, list) else [value]:
            if isinstance(level, torch.Tensor) and level.dim() == 4:
                drawn = Visualizer.draw_featmap(
                    level[0].float().cpu(), image, channel_reduction='squeeze_mean'
                )
                rows.setdefault(text, []).append(
                    titled(drawn, f'{name}.{text} {tuple(level[0].shape)}')
                )
    return stack_rows([_row(images) for images in rows.values()]) if rows else None
