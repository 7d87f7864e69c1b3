"""Draw test images: ground truth, members, ensemble, disagreement; and what the links' taps read.

python tools/visualize.py CONFIG CHECKPOINT --out DIR [--indices 0 1 2 | --names file1 file2]
"""

import argparse

from mmkd.apis.command_line import add_run_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
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


def main() -> None:
    """Draw."""
    args = parse_args()

    from mmkd.apis.pictures import visualize

    visualize(args)


if __name__ == '__main__':
    run_tool(main)
