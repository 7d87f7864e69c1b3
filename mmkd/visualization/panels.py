"""Pictures of what members predict, side by side, drawn with mmengine's Visualizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from mmengine.visualization import Visualizer
from torch import Tensor

from mmkd.tasks.drawing import WRONG, Color, Size, TaskDrawing
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import read_image

if TYPE_CHECKING:
    from mmkd.models.distillers import OnlineDistiller

COLORS: list[Color] = [
    (0, 229, 255),
    (255, 214, 0),
    (255, 109, 0),
    (234, 128, 252),
    (118, 255, 3),
    (255, 23, 68),
]
GT: Color = (0, 255, 0)
RIGHT: Color = (0, 140, 0)
BLACK: Color = (0, 0, 0)
MIN_SIDE = 256  # smaller images are enlarged, so that lines and text stay readable
STRIP = 24  # height of a line of text above a picture


@dataclass
class Picture:
    """An image with something drawn on it.

    Args:
        name: What is drawn: `ground truth`, a member, `ensemble`, `disagreement`.
        title: With the file's name or a remark.
        color: The title's.
        image: RGB, uint8 (H, W, 3).
    """

    name: str
    title: str
    color: Color
    image: np.ndarray


@torch.no_grad()
def member_pictures(model: OnlineDistiller, dataset: Any, index: int) -> list[Picture]:
    """Draw an image of a data set: ground truth, members, ensemble, and where members disagree.

    Args:
        model: In eval mode.
        dataset: A test data set of the model's toolbox.
        index: Which image.
    """
    drawing = _drawing(model)
    item = dataset[index]
    results = model.predict_members(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
    )
    samples = {name: result[0].cpu() for name, result in results.items()}
    path = item['data_samples'].img_path
    image, metainfo = _load(path), dataset.metainfo
    gt = drawing.gt_of(dataset, index, item['data_samples'])
    canvas, pictures = Visualizer(), []

    def add(name: str, title: str, draw: Callable[[Size], None], color: Color = BLACK) -> None:
        canvas.set_image(image)
        draw(image.shape[:2])
        pictures.append(Picture(name, title, color, canvas.get_image()))

    add(
        'ground truth',
        f'ground truth  {Path(path).name}',
        lambda size: drawing.draw(canvas, size, gt, GT, metainfo),
    )
    for (name, sample), color in zip(samples.items(), cycle(COLORS)):
        remark, right = drawing.remark(sample, gt, metainfo)
        ink = {None: BLACK, True: RIGHT, False: WRONG}[right]
        draw = partial(drawing.draw, canvas, sample=sample, color=color, metainfo=metainfo)
        add(name, f'{name}: {remark}' if remark else name, draw, ink)
    members = {name: sample for name, sample in samples.items() if name != 'ensemble'}
    if len(members) > 1:
        colors = list(islice(cycle(COLORS), len(members)))
        add(
            'disagreement',
            'disagreement',
            lambda size: drawing.draw_disagreement(canvas, size, members, colors, metainfo),
        )
    return pictures


def member_panels(model: OnlineDistiller, dataset: Any, index: int) -> np.ndarray:
    """Draw `member_pictures` side by side, with titles.

    The first panel's title is the file's name; a legend of the classes stands at the end where the
    task has one.

    Args:
        model: In eval mode.
        dataset: A test data set of the model's toolbox.
        index: Which image.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    pictures = member_pictures(model, dataset, index)
    panels = [titled(picture.image, picture.title, picture.color) for picture in pictures]
    legend = _drawing(model).legend(dataset.metainfo)
    if legend:
        panels.append(legend_panel(legend, panels[0].shape[0]))
    return side_by_side(panels)


@torch.no_grad()
def feature_panels(model: OnlineDistiller, dataset: Any, index: int) -> np.ndarray | None:
    """Draw the maps that the links' taps read from one image: a row per tap, a column per member.

    A `prediction` tap is drawn as the probability of the foreground (of two classes) or of the best
    class; another tap as the mean over channels.

    Args:
        model: In eval mode.
        dataset: A test data set of the model's toolbox.
        index: Which image.

    Returns:
        RGB, uint8 (H, W, 3); None if no tap of a link gives maps.
    """
    drawing = _drawing(model)
    item = dataset[index]
    data = model.data_preprocessor(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']]), False
    )
    image = _load(item['data_samples'].img_path)
    rows: dict[str, list[np.ndarray]] = {}
    values: Mapping[tuple[str, str], Any] = model.read_taps(data['inputs'], data['data_samples'])
    for (name, tap), value in sorted(values.items()):
        probabilities = drawing.probability_map(value) if tap == 'prediction' else None
        if probabilities is not None:
            drawn = _draw_probability(probabilities[0, 0], image)
            title = f'{name}.{tap} probability {tuple(value.shape[-2:])}'
            rows.setdefault(tap, []).append(titled(drawn, title))
            continue
        for level in value if isinstance(value, list) else [value]:
            if isinstance(level, Tensor) and level.dim() == 4:
                drawn = Visualizer.draw_featmap(
                    level[0].float().cpu(), image, channel_reduction='squeeze_mean'
                )
                title = f'{name}.{tap} {tuple(level[0].shape)}'
                rows.setdefault(tap, []).append(titled(drawn, title))
    return stack_rows([side_by_side(images) for images in rows.values()]) if rows else None


def stack_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stack pictures of several images, padded to one width, to one picture (H, W, 3)."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [
            np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255)
            for row in rows
        ]
    )


def titled(image: np.ndarray, title: str, color: Color = BLACK) -> np.ndarray:
    """Put a strip with a title above an image (H, W, 3)."""
    strip = np.full((STRIP, image.shape[1], 3), 255, np.uint8)
    scale = 0.45
    (width, _), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, (image.shape[1] - 8) / max(width, 1))  # long titles are set smaller
    cv2.putText(strip, title, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def legend_panel(legend: Mapping[str, Color], height: int) -> np.ndarray:
    """Draw class names beside their colors, a picture (H, W, 3) at least `height` high."""
    rows = [titled(np.full((0, 150, 3), 255, np.uint8), f'    {name}') for name in legend]
    for row, color in zip(rows, legend.values()):
        row[7:18, 4:15] = color
    picture = np.concatenate(rows)
    missing = max(height - picture.shape[0], 0)
    return np.pad(picture, ((0, missing), (0, 0), (0, 0)), constant_values=255)


def _drawing(model: OnlineDistiller) -> TaskDrawing:
    if model.task.drawing is None:
        raise ConfigError(f'{type(model.task).__name__} draws no pictures')
    return model.task.drawing


def _draw_probability(probability: Tensor, image: np.ndarray) -> np.ndarray:
    """Lay a map (H, W) of values in [0, 1], the same colors for the same values, over an image."""
    values = probability.float().cpu().numpy()
    values = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap((values * 255).round().astype(np.uint8), cv2.COLORMAP_JET)
    return cv2.addWeighted(image, 0.5, cv2.cvtColor(colors, cv2.COLOR_BGR2RGB), 0.5, 0)


def _load(path: str) -> np.ndarray:
    found = read_image(path)
    if found is None:
        raise ConfigError(f'{path}: no readable image')
    image = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
    factor = max(1.0, MIN_SIDE / min(image.shape[:2]))
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures (H, W, 3) beside each other, padded to one height."""
    height = max(image.shape[0] for image in images)
    return np.concatenate(
        [
            np.pad(image, ((0, height - image.shape[0]), (0, 4), (0, 0)), constant_values=255)
            for image in images
        ],
        axis=1,
    )
