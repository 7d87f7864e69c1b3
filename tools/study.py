"""Train the arms of a planned study, paired by seed, and report on them; docs/studies.md says how.

  python tools/study.py run docs/studies/NAME/plan.py --jobs 2
  python tools/study.py status docs/studies/NAME/plan.py
  python tools/study.py report docs/studies/NAME/plan.py

`run` goes on where an earlier call was stopped. The results are small JSON files beside the plan.
"""

import argparse
import sys

from mmkd.apis.command_line import Options, positive, run_tool


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='train what has no result yet')
    status = commands.add_parser('status', help='which runs are done, unfinished or missing')
    report = commands.add_parser('report', help='write report.md, report.html and figure.svg')
    for command in (run, status, report):
        command.add_argument('plan', help="the study's plan, docs/studies/NAME/plan.py")
        command.add_argument(
            '--trial',
            action='store_true',
            help='the plan need not be committed; runs, results and report go to '
            'work_dirs/studies/NAME_trial',
        )
    run.add_argument('--jobs', type=positive, default=1, help='trainings side by side; default: 1')
    run.add_argument('--arms', nargs='+', default=[], help="arms to train; default: the plan's")
    run.add_argument(
        '--seeds', nargs='+', type=int, default=[], help="seeds to train; default: the plan's"
    )
    run.add_argument(
        '--stale',
        choices=['refuse', 'rerun', 'keep'],
        default='refuse',
        help='what to do with results of another plan or config; default: refuse to run',
    )
    run.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        default={},
        help='changes of the config, for a --trial: key=value',
    )
    report.add_argument(
        '--keep-stale',
        action='store_true',
        help='use results of another config as well; the report says so',
    )
    args = parser.parse_args()
    if args.command == 'run' and args.cfg_options and not args.trial:
        parser.error('--cfg-options is for a --trial; the plan says what a study changes')
    return args


def say(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


def main() -> None:
    """Run one of the tool's commands."""
    args = parse_args()

    from mmkd.apis.study.plan import load_plan
    from mmkd.apis.study.report import write_report
    from mmkd.apis.study.run import run_study
    from mmkd.apis.study.status import status_table

    plan = load_plan(args.plan, args.trial)
    if args.command == 'run':
        failed = run_study(
            plan, args.arms, args.seeds, args.jobs, args.stale, args.cfg_options, say
        )
        if failed:
            say('\nfailed:\n' + '\n'.join(failed))
            sys.exit(1)
    elif args.command == 'status':
        print(status_table(plan))
    else:
        for path in write_report(plan, args.keep_stale):
            print(path)


if __name__ == '__main__':
    run_tool(main)
