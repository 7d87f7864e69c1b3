"""What the tools share: arguments, configs, and errors as one message with a non-zero exit status."""
import argparse
import os
import sys
import traceback
from pathlib import Path

from mmengine.config import Config, DictAction

from mmkd.utils.distributed import check_parallel, init_cpu_distributed
from mmkd.utils.text import align


def add_run_arguments(parser):
    """Add the arguments that train.py and test.py share with every OpenMMLab tool."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/<config name>)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        help='values that replace the config\'s: key=value, key="[a,b]", a.b.c=value')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(path, args):
    """Load a config with the command line's `--cfg-options`, `--launcher` and `--work-dir`; start gloo where needed."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config file {path!r} (from {Path.cwd()})')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    check_parallel(cfg)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if init_cpu_distributed(args.launcher):
        # mmengine fills in `device_ids`, which torch refuses for modules on the CPU.
        cfg.model_wrapper_cfg = dict(dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False),
                                     **cfg.get('model_wrapper_cfg') or {})
    return cfg


def run_tool(main):
    """Run a tool's `main()`; a wrong input ends it with one message and exit status 1 (MMKD_TRACEBACK=1: the traceback too)."""
    try:
        main()
    except (ValueError, OSError, KeyError, TypeError, FloatingPointError) as error:
        if os.environ.get('MMKD_TRACEBACK') == '1':
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f'\nerror: {text}\n(raised in {Path(where.filename).name}:{where.lineno}; MMKD_TRACEBACK=1 shows the way there)',
              file=sys.stderr)
        sys.exit(1)


def metric_table(metrics, rows, columns, title='member'):
    """Format metrics `row/column` as a text table.

    Args:
        metrics (dict[str, float]): All metrics.
        rows (list[str]): Members.
        columns (dict[str, str]): Heading by metric name.
    """
    lines = [[title, *columns.values()]]
    for row in rows:
        lines.append([row, *(_number(metrics.get(f'{row}/{column}')) for column in columns)])
    return align(lines)


def _number(value):
    if value is None:
        return '-'
    return value if isinstance(value, str) else f'{value:.3f}'
