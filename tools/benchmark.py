"""Cost of a joint training step of a config against the sum of its members' plain trainings.

  python tools/benchmark.py CONFIG [--steps 20] [--cfg-options ...]

Times are medians of steps taken in turn in one process on the same batches; each peak is that of a
process of its own. With `--against` the joint steps of two forms of a config are compared; on a CPU
their times are those of the process. With `--epochs` the whole training is measured: its start, its
epochs and validations by part, against the same steps and forwards alone.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from mmkd.apis.command_line import Options, add_options_argument, positive, run_tool
from mmkd.utils.errors import ConfigError

STARTED = time.perf_counter()


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of an OnlineDistiller')
    parser.add_argument(
        '--steps', type=positive, default=20, help='measured steps of each (default: 20)'
    )
    add_options_argument(parser)
    parser.add_argument(
        '--against',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='compare the joint step with that of the same config with these values instead',
    )
    parser.add_argument(
        '--epochs',
        type=positive,
        metavar='N',
        help='measure N epochs with their validations, and where their time goes',
    )
    parser.add_argument(
        '--students',
        nargs='+',
        type=positive,
        metavar='K',
        help='measure a step of K copies of the first student, and what links between them add',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help="write --epochs' figures here")
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print the table."""
    args = parse_args()

    import torch

    from mmkd.apis.benchmark import (
        compare_time,
        compared,
        measure_memory,
        measure_time,
        online_members,
        prepare,
        table,
    )

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if args.memory_of:
        print(json.dumps(measure_memory(args.config, args.cfg_options, args.memory_of, device)))
        return
    if args.against:
        seconds = compare_time(args.config, args.cfg_options, args.against, args.steps, device)
        print(
            f'\n{compared(seconds, (args.config, " ".join(map("=".join, args.against.items()))))}'
        )
        return
    if args.epochs:
        from mmkd.apis.epoch import epoch_table, profile_epochs

        found = profile_epochs(args.config, args.cfg_options, args.epochs, STARTED)
        if args.json is not None:
            args.json.write_text(json.dumps(found, indent=1) + '\n')
        print(f'\n{epoch_table(found)}')
        return
    if args.students:
        from mmkd.apis.peers import measure_students, students_table

        counted = measure_students(args.config, args.cfg_options, args.students, args.steps, device)
        print(f'\n{students_table(counted)}')
        return
    memory = {}
    for subject in ('joint', *online_members(prepare(args.config, args.cfg_options))):
        done = subprocess.run(
            [sys.executable, *sys.argv, '--memory-of', subject], capture_output=True, text=True
        )
        if done.returncode:
            said = done.stderr.strip().rpartition('error: ')[2].partition('\n(raised in')[0]
            raise ConfigError(f'measuring {subject}: {said[-800:]}')
        memory[subject] = json.loads(done.stdout.strip().splitlines()[-1])
    seconds = measure_time(args.config, args.cfg_options, args.steps, device)
    print(f'\n{table(seconds, memory, device, args.steps)}')


if __name__ == '__main__':
    run_tool(main)
