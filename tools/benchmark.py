"""Step time and peak memory of the joint training of a config against the sum of its members' plain trainings.

  python tools/benchmark.py CONFIG [--steps 20] [--cfg-options ...]

Times are medians of steps taken in turn in one process on the same batches; each peak is that of a process of its own.
"""

import argparse
import json
import subprocess
import sys

import torch

from mmkd.apis.benchmark import measure_memory, measure_time, online_members, prepare
from mmkd.apis.command_line import Options, positive, run_tool
from mmkd.utils.errors import ConfigError


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of an OnlineDistiller')
    parser.add_argument(
        '--steps', type=positive, default=20, help='measured steps of each (default: 20)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        default={},
        help="values that replace the config's",
    )
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if args.memory_of:
        print(json.dumps(measure_memory(args.config, args.cfg_options, args.memory_of, device)))
        return
    names = online_members(prepare(args.config, args.cfg_options))
    memory = {}
    for subject in ('joint', *names):
        done = subprocess.run(
            [sys.executable, *sys.argv, '--memory-of', subject], capture_output=True, text=True
        )
        if done.returncode:
            raise ConfigError(f'measuring {subject}: {done.stderr.strip()[-800:]}')
        memory[subject] = json.loads(done.stdout.strip().splitlines()[-1])
    seconds = measure_time(args.config, args.cfg_options, args.steps, device)
    print(f'\n{"":<12}{"step, s":>10}{"peak, MiB":>12}')
    for name in (*names, 'joint'):
        print(f'{name:<12}{seconds[name]:>10.3f}{memory[name]:>12.0f}')
    sums = [sum(table[name] for name in names) for table in (seconds, memory)]
    print(f'{"sum of plain":<12}{sums[0]:>10.3f}{sums[1]:>12.0f}')
    print(
        f'joint / sum: time {seconds["joint"] / sums[0]:.2f}, memory {memory["joint"] / sums[1]:.2f} ({device}, '
        f'medians of {args.steps} steps)'
    )


if __name__ == '__main__':
    run_tool(main)
