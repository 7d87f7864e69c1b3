"""Draw test images: ground truth, each member, the ensemble, their disagreement; and the maps that the links' taps read.

python tools/visualize.py CONFIG CHECKPOINT --out DIR [--indices 0 1 2 | --names file1 file2]
"""

import argparse
from pathlib import Path

import cv2
from mmengine.runner import Runner

from mmkd.apis.command_line import add_run_arguments, load_config, run_tool
from mmkd.utils.checkpoint import check_members, load_file
from mmkd.utils.checks import choose
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import write_image
from mmkd.visualization import feature_panels, member_panels


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of the training')
    parser.add_argument('--out', required=True, help='folder of the pictures')
    parser.add_argument(
        '--indices', type=int, nargs='+', help='places in the test set (default: 0 to 5)'
    )
    parser.add_argument(
        '--names',
        nargs='+',
        metavar='FILE',
        help='file names in the test set, instead of --indices',
    )
    parser.add_argument('--no-features', action='store_true', help='leave out the maps of the taps')
    add_run_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args.config, args)
    checkpoint = load_file(args.checkpoint, 'checkpoint')
    cfg.load_from, cfg.resume = args.checkpoint, False
    with naming_keys(cfg):
        runner = Runner.from_cfg(cfg)
        check_members(runner.model, checkpoint, repr(args.checkpoint))
        runner.load_or_resume()
        model, dataset = runner.model.eval(), runner.build_dataloader(cfg.test_dataloader).dataset
    places = {Path(dataset.get_data_info(i)['img_path']).name: i for i in range(len(dataset))}
    indices = args.indices if args.indices is not None else range(min(6, len(dataset)))
    if args.names:
        indices = [places[choose(name, places, '--names')] for name in args.names]
    for index in indices:
        if not 0 <= index < len(dataset):
            raise ConfigError(f'--indices: {index}, but the test set has {len(dataset)} images')
        stem = Path(dataset.get_data_info(index)['img_path']).stem
        pictures = {'members': member_panels(model, dataset, index)}
        if not args.no_features:
            pictures['features'] = feature_panels(model, dataset, index)
        for kind, picture in pictures.items():
            if picture is not None:
                path = Path(args.out) / f'{stem}_{kind}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                print(path)


if __name__ == '__main__':
    run_tool(main)
