"""Train a config under several sharing presets, or variants, and seeds and print the table of means and standard deviations.

  python tools/study.py CONFIG --metric mDice --out work_dirs/study [--presets ...] [--seeds 0 1 2] [--cfg-options ...]

A config may name variants of its own, `variants = dict(baseline={'model.links': []}, ...)`: they are then the rows, unless
--presets are asked for.

Runs that are done are not repeated: call it again to go on, or with more rows or seeds. `--seeds` may be split over
several calls at once with the same --out.
"""

import argparse
from pathlib import Path

from mmkd.apis.command_line import read_config, run_tool
from mmkd.apis.study import study

ROWS = [
    'individual',
    'kd_p',
    'ml_p',
    'kdml_p',
    'kdml_f',
    'kdml_mixed_complement',
    'kdml_mixed_full',
]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file with model.sharing, or with variants')
    parser.add_argument(
        '--metric',
        required=True,
        help='metric without the member: coco/bbox_mAP, mDice, accuracy/top1',
    )
    parser.add_argument('--out', required=True, help='folder of the runs and of table.md')
    parser.add_argument('--presets', nargs='+', help=f'rows; default: {" ".join(ROWS)}')
    parser.add_argument(
        '--variants',
        nargs='*',
        help='rows that are variants of the config; default: all, where it has any',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        help="values that replace the config's, for every run",
    )
    args = parser.parse_args()
    if args.variants is None and args.presets is None and read_config(args.config).get('variants'):
        args.variants = []
    if args.variants is not None and args.presets is not None:
        parser.error('give --presets or --variants, not both')
    text = ''
    for row, seed, text in study(
        args.config,
        args.presets or ROWS,
        args.seeds,
        args.metric,
        args.out,
        args.cfg_options,
        args.variants,
    ):
        print(f'done: {row}, seed {seed}', flush=True)
    Path(args.out, 'table.md').write_text(text + '\n')
    print(text)


if __name__ == '__main__':
    run_tool(main)
