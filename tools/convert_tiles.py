"""Folders of histology tiles (Kather's MSIMUT and MSS) to lists for training, split by patient."""

import argparse
import signal
import sys
from pathlib import Path

from mmkd.apis.command_line import run_tool
from mmkd.utils.errors import wrong_paths


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'folder',
        help='folder with one folder of images a class, or with TRAIN and TEST that have '
        'these (then that split is kept)',
    )
    parser.add_argument('out', help='folder to write, e.g. data/msi')
    parser.add_argument(
        '--classes',
        nargs='+',
        default=['MSS', 'MSIMUT'],
        metavar='NAME',
        help='names of the class folders, in the order of labels (default: MSS MSIMUT)',
    )
    parser.add_argument(
        '--patient',
        default='tcga',
        metavar='RULE',
        help='which tiles are of one patient: tcga (the barcode in the file name), '
        'folder, a regular expression, FILE.csv:COLUMN, or file (each tile is of another patient) '
        '(default: tcga)',
    )
    parser.add_argument(
        '--train-ratio',
        type=float,
        default=0.8,
        help='share of train in the random cut by patient (default: 0.8)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the random cut (default: 0)')
    parser.add_argument(
        '--copy',
        action='store_true',
        help='copy the tiles to OUT/images, for file systems without links (default: a link to '
        'FOLDER)',
    )
    parser.add_argument(
        '--strict',
        action='store_true',
        help='fail where a file cannot be used, instead of leaving it out',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace OUT, if a converter has made it'
    )
    return parser.parse_args()


def main() -> None:
    """Convert, and print what was found."""
    options = vars(parse_args())

    from mmkd.datasets.converters.tiles import convert_tiles

    with wrong_paths():
        report = convert_tiles(**options)
    print(f'\n{report.table()}\nwrote {Path(options["out"]).absolute()}')


if __name__ == '__main__':
    # A stopped job leaves nothing half-written either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_tool(main)
    except KeyboardInterrupt:
        sys.exit('\nstopped: nothing was written')
