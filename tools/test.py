"""Evaluate the members and the ensemble of an mmkd config in one pass: test.py CONFIG CHECKPOINT"""

import argparse

from mmkd.apis.command_line import add_run_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_run_arguments(parser)
    parser.add_argument(
        '--member', nargs='+', metavar='NAME', help="evaluate only these ('ensemble' among them)"
    )
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='dump predictions, a file for each: FILE_<member>.pkl'
    )
    parser.add_argument(
        '--out-logits', action='store_true', help="with --out: segmenters' logits, too (large)"
    )
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help="draw predictions (the ensemble's, or the last --member's) into DIR, for detection "
        'WORK_DIR/<time>/DIR',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation: the toolbox's, as `tta_model` and `tta_pipeline` of the "
        'config have it',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a picture is shown')
    return parser.parse_args()


def main() -> None:
    """Evaluate."""
    args = parse_args()

    from mmkd.apis.testing import test

    test(args)


if __name__ == '__main__':
    run_tool(main)
