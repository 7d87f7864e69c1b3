"""Try which detectors can teach which: build each pair, take steps, print the table of the docs.

  python tools/detector_pairs.py [--detectors YOLOX DINO ...] [--steps 0]

The members are small forms of MMDetection's configs, the images noise with two boxes. A step's cost
is its CPU time over that of the two members' own steps, with one thread. With --steps 0 no
pair is trained: each detector is built once, and the table says how it is compared with the others.
"""

import argparse
import functools

from mmkd.apis.command_line import run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--detectors', nargs='+', metavar='NAME', help='some of them (default: all)'
    )
    parser.add_argument(
        '--steps', type=int, default=3, help='measured steps of each pair (default: 3)'
    )
    return parser.parse_args()


def main() -> None:
    """Try all pairs and print the table."""
    args = parse_args()

    import torch
    from mmdet.utils import register_all_modules

    from mmkd.apis.detector_pairs import DETECTORS, forms_table, table
    from mmkd.utils.checks import check_integer, choose

    for name in args.detectors or []:
        choose(name, DETECTORS, '--detectors')
    check_integer(args.steps, '--steps', least=0)
    torch.set_num_threads(1)
    register_all_modules(init_default_scope=False)
    names = args.detectors or list(DETECTORS)
    tell = functools.partial(print, flush=True)
    found = table(names, args.steps, tell) if args.steps else forms_table(names, tell)
    print(f'\n{found}')


if __name__ == '__main__':
    run_tool(main)
