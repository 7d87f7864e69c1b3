"""Table, curves, test images and plain students of a finished training: report.py WORK_DIR"""

import argparse

from mmkd.apis.command_line import positive, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', help='work folder of the training')
    parser.add_argument(
        '--checkpoint', help="checkpoint (default: the ensemble's best, else the last)"
    )
    parser.add_argument(
        '--images', type=positive, default=6, help='images on the sheet (default: 6)'
    )
    return parser.parse_args()


def main() -> None:
    """Write the report."""
    args = parse_args()

    from mmkd.apis.report import report

    table, files = report(args.work_dir, args.checkpoint, args.images)
    print(f'\n{table}\n\nFiles:')
    print('\n'.join(f'  {path}' for path in files))


if __name__ == '__main__':
    run_tool(main)
