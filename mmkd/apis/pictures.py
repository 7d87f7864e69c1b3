"""Pictures of what members predict on test images, and of what their links' taps read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mmkd.apis.command_line import load_config
from mmkd.apis.pretraining import freeze_pretrained
from mmkd.apis.training import build_runner
from mmkd.export import unwritten
from mmkd.utils.checkpoint import check_members, hand_over, load_file
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.images import write_image
from mmkd.utils.model import distiller_of
from mmkd.visualization import feature_panels, member_panels


def visualize(args: argparse.Namespace) -> None:
    """Draw test images as the command line of tools/visualize.py says.

    Raises:
        ConfigError: For a wrong input, before anything is drawn.
    """
    cfg = load_config(args.config, args)
    freeze_pretrained(cfg, args.checkpoint)
    checkpoint = load_file(args.checkpoint, 'checkpoint')
    cfg.load_from, cfg.resume = args.checkpoint, False
    runner = build_runner(unwritten(cfg))
    check_members(runner.model, checkpoint, repr(args.checkpoint))
    hand_over(args.checkpoint, checkpoint)
    runner.load_or_resume()
    model = distiller_of(runner.model).eval()
    dataset = runner.build_dataloader(cfg.test_dataloader).dataset
    names = [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]
    if args.names:
        indices = [_index_of(name, names) for name in args.names]
    else:
        indices = args.indices if args.indices is not None else list(range(min(6, len(names))))
    for index in indices:
        if not 0 <= index < len(names):
            raise ConfigError(f'--indices: {index}, but the test set has {len(names)} images')
    out = Path(args.out)
    with wrong_paths():
        out.mkdir(parents=True, exist_ok=True)
    for index in indices:
        pictures: dict[str, np.ndarray | None] = {'members': member_panels(model, dataset, index)}
        if not args.no_features:
            pictures['features'] = feature_panels(model, dataset, index)
        for kind, picture in pictures.items():
            if picture is not None:
                path = out / f'{_stem_of(index, names)}_{kind}.png'
                write_image(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                print(path)


def _index_of(name: str, names: Sequence[str]) -> int:
    index = names.index(choose(name, names, '--names'))
    if names.count(name) > 1:
        raise ConfigError(
            f'--names: {names.count(name)} images of the test set are called {name!r}; name one by '
            'its place, --indices'
        )
    return index


def _stem_of(index: int, names: Sequence[str]) -> str:
    """Return the image's name without suffix, with its place where others have the same."""
    stems = [Path(name).stem for name in names]
    return stems[index] if stems.count(stems[index]) == 1 else f'{stems[index]}_{index}'
