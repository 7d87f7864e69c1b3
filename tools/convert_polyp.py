"""Folders of images and masks (Kvasir-SEG, CVC-ClinicDB) to COCO boxes and label maps."""

import argparse
import signal
import sys
from pathlib import Path

from mmkd.apis.command_line import run_tool
from mmkd.utils.errors import ConfigError, wrong_paths


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', help='folder of images')
    parser.add_argument('masks', help='folder of masks with the same file stems')
    parser.add_argument('out', help='folder to write, e.g. data/kvasir')
    parser.add_argument(
        '--split',
        action='append',
        default=[],
        metavar='NAME=LIST.txt',
        help='a split (train, val or test) and its list of file stems, e.g. train=train.txt; '
        'repeat for each (default: a random cut into train and val)',
    )
    parser.add_argument(
        '--train-ratio',
        type=float,
        default=0.9,
        help='share of train in the random cut (default: 0.9)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the random cut (default: 0)')
    parser.add_argument(
        '--min-area',
        type=float,
        metavar='SHARE_OR_PIXELS',
        help="components below it are specks and dropped: below 1 a share of the image's area, "
        'else pixels (default: 0.0002 of the area, and 16 pixels at least)',
    )
    parser.add_argument(
        '--strict',
        action='store_true',
        help='fail where a file cannot be used, instead of leaving it out',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace OUT')
    return parser.parse_args()


def main() -> None:
    """Convert."""
    options = vars(parse_args())

    from mmkd.datasets.converters.convert import convert_polyps

    splits = {}
    for item in options.pop('split'):
        name, equals, path = item.partition('=')
        if not (name and equals and path):
            raise ConfigError(f'--split: expected NAME=LIST.txt, got {item!r}')
        if name in splits:
            raise ConfigError(f'--split: {name!r} is given twice')
        splits[name] = path
    with wrong_paths():
        report = convert_polyps(splits=splits, **options)
    print(f'\n{report.table()}\nwrote {Path(options["out"]).absolute()}')


if __name__ == '__main__':
    # A stopped job leaves nothing half-written either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_tool(main)
    except KeyboardInterrupt:
        sys.exit('\nstopped: nothing was written')
