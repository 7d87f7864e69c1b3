"""Write the built-in set of synthetic endoscopy-like frames."""

import argparse
import signal
import sys
from pathlib import Path

from mmkd.apis.command_line import run_tool
from mmkd.utils.errors import wrong_paths


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--out', default='data/synthetic_polyps', help='folder to write')
    parser.add_argument('--train', type=int, default=320, help='training frames')
    parser.add_argument('--val', type=int, default=80, help='validation frames')
    parser.add_argument('--size', type=int, default=160, help='height and width in pixels')
    parser.add_argument('--seed', type=int, default=0, help='seed of the set')
    parser.add_argument(
        '--overwrite', action='store_true', help='write in any case, in place of a set there'
    )
    return parser.parse_args()


def main() -> None:
    """Write the set."""
    args = parse_args()

    from mmkd.datasets.converters.synthetic import write_synthetic_polyps

    with wrong_paths():
        written = write_synthetic_polyps(**vars(args))
    print(
        f'\n{Path(args.out).absolute()}: '
        + ('written' if written else 'there already, with these arguments')
    )


if __name__ == '__main__':
    # A stopped job leaves nothing half-written either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_tool(main)
    except KeyboardInterrupt:
        sys.exit('\nstopped: nothing was written')
