"""Pictures of what members predict on test images, and of what their links' taps read."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from mmkd.apis.command_line import load_config
from mmkd.apis.pretraining import freeze_pretrained
from mmkd.apis.training import build_runner
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
    freeze_pretrained(cfg)
    checkpoint = load_file(args.checkpoint, 'checkpoint')
    cfg.load_from, cfg.resume = args.checkpoint, False
    runner = build_runner(cfg)
    check_members(runner.model, checkpoint, repr(args.checkpoint))
    hand_over(args.checkpoint, checkpoint)
    runner.load_or_resume()
    model = distiller_of(runner.model).eval()
    dataset = runner.build_dataloader(cfg.test_dataloader).dataset
    names = [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]
    if args.names:
        indices = [names.index(choose(name, names, '--names')) for name in args.names]
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
                path = out / f'{Path(names[index]).stem}_{kind}.png'
                write_image(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                print(path)
