"""Fit each member's and the ensemble's temperature on the validation data: calibrate.py CKPT

Scores divided by it (their log-odds) are nearer to probabilities; tools/export_onnx.py takes FILE.
Of detectors it also prints the ensemble's calibration and weights, as options for tools/test.py.
"""

import argparse

from mmkd.apis.command_line import run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint (.pth) of a training or of an export')
    parser.add_argument('--config', help='config of the checkpoint (default: the one beside it)')
    parser.add_argument(
        '--member',
        nargs='+',
        metavar='NAME',
        help="fit these, 'ensemble' among them (default: every member and the ensemble)",
    )
    parser.add_argument('--out', metavar='FILE.json', help='where to write the temperatures')
    return parser.parse_args()


def main() -> None:
    """Fit and print the table."""
    args = parse_args()

    from mmkd.apis.calibrating import (
        calibrate,
        ensemble_options,
        temperature_table,
        write_temperatures,
    )
    from mmkd.utils.files import check_file_path

    if args.out:
        check_file_path(args.out, '--out')
    fitted = calibrate(args.checkpoint, args.config, args.member)
    print(temperature_table(fitted))
    options = ensemble_options(fitted)
    if options:
        print('the ensemble, by these members on these images: --cfg-options')
        print('\n'.join(f'  "{option}"' for option in options))
    if args.out:
        write_temperatures(fitted, args.out)
        print(f'wrote {args.out}')


if __name__ == '__main__':
    run_tool(main)
