"""Train the members of an mmkd config together, or any MM config: train.py CONFIG"""

import argparse

from mmkd.apis.command_line import add_run_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    add_run_arguments(parser)
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (on a machine without GPU: bfloat16)'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rates to the batch size in use',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the latest of the work folder if none is named',
    )
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = parse_args()

    from mmkd.apis.training import train

    train(args)


if __name__ == '__main__':
    run_tool(main)
