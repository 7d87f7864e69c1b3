"""Cost of a joint training step of a config against the sum of its members' plain trainings.

  python tools/benchmark.py CONFIG [--steps 20] [--cfg-options ...]

Times are medians of steps taken in turn in one process on the same batches; each peak is that of a
process of its own. With `--against` the joint steps of two forms of a config are compared; on a CPU
their times are those of the process. With `--epochs` the whole training is measured: its start, its
epochs and validations by part, against the same steps and forwards alone. With `--members` the peak
and time of a step are measured with so many trained members, together and in turns; with
`--students` what links between more and more students add; with `--processes` the steps of several
processes; with `--others` a step of distillation in mmkd and in other software.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
        '--members',
        nargs='+',
        type=positive,
        metavar='N',
        help='with N trained members (the last one is added again), model.in_turns on and off',
    )
    parser.add_argument(
        '--processes',
        nargs='+',
        type=positive,
        metavar='N',
        help='weak scaling: N processes, each with a batch of its own',
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
    parser.add_argument(
        '--others',
        action='store_true',
        help='classification: the step of a frozen teacher and a student against a hand-written '
        "loop's and, if it is installed, torchdistill's",
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here')
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    parser.add_argument('--as-rank', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace, device: str) -> tuple[Any, str]:
    """Return the figures that the command line asks for, and their table."""
    config, options = args.config, args.cfg_options
    if args.members:
        from mmkd.apis.memory import members_table, profile_members

        found = profile_members(config, options, args.members, args.steps, device)
        return found, members_table(found, device, args.steps)
    if args.processes:
        from mmkd.apis.scaling import scaling_table, weak_scaling

        scaled = weak_scaling([*sys.argv, '--as-rank'], args.processes)
        return scaled, scaling_table(scaled, args.steps)
    if args.against:
        from mmkd.apis.benchmark import compare_time, compared

        seconds = compare_time(config, options, args.against, args.steps, device)
        other = ' '.join(map('='.join, args.against.items()))
        return dict(zip(('own', 'against'), seconds)), compared(seconds, (config, other))
    if args.others:
        from mmkd.apis.other_loops import compare_loops, loops_table

        loops = compare_loops(config, options, args.steps, device)
        return loops, loops_table(loops)
    if args.epochs:
        from mmkd.apis.epoch import epoch_table, profile_epochs

        epochs = profile_epochs(config, options, args.epochs, STARTED)
        return epochs, epoch_table(epochs)
    if args.students:
        from mmkd.apis.peers import measure_students, students_table

        counted = measure_students(config, options, args.students, args.steps, device)
        return counted, students_table(counted)
    return measure_step(args, device)


def measure_step(args: argparse.Namespace, device: str) -> tuple[Any, str]:
    """Measure the joint step and the members' own, each peak in a process of its own."""
    from mmkd.apis.benchmark import measure_time, online_members, prepare, table

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
    return dict(seconds=seconds, memory=memory), table(seconds, memory, device, args.steps)


def main() -> None:
    """Measure and print the table."""
    args = parse_args()

    import torch

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if args.memory_of:  # in a process of `measure_step`
        from mmkd.apis.benchmark import measure_memory

        print(json.dumps(measure_memory(args.config, args.cfg_options, args.memory_of, device)))
        return
    if args.as_rank:  # in a process of `weak_scaling`
        from mmkd.apis.scaling import run_as_rank

        run_as_rank(args.config, args.cfg_options, args.steps)
        return
    figures, text = measure(args, device)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + '\n')
    print(f'\n{text}')


if __name__ == '__main__':
    run_tool(main, one_config=False)
