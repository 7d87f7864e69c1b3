"""What the tools share: arguments, configs, and errors as one message with a non-zero exit status."""

import argparse
import copy
import os
import sys
import traceback
from errno import EEXIST
from pathlib import Path

from mmengine.config import Config, DictAction

from mmkd.utils.distributed import check_parallel, init_cpu_distributed
from mmkd.utils.errors import ConfigError
from mmkd.utils.text import align

# What a wrong input raises, in mmkd or in the toolboxes; other errors are faults of a program and keep their traceback.
INPUT_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    OSError,
    ImportError,
    AssertionError,
    FloatingPointError,
)
# What each launcher sets, and the script that starts it.
LAUNCHERS = dict(
    pytorch=('RANK', 'dist_{tool}.sh CONFIG PROCESSES'),
    slurm=('SLURM_PROCID', 'slurm_{tool}.sh PARTITION JOB CONFIG'),
    mpi=('OMPI_COMM_WORLD_RANK or PMI_RANK', ''),
)


class Options(DictAction):
    """mmengine's `key=value` arguments, with a message for one without `=`."""

    def __call__(self, parser, namespace, values, option_string=None):
        for item in values:
            if '=' not in item:
                parser.error(f'{option_string}: expected KEY=VALUE, got {item!r}')
        super().__call__(parser, namespace, values, option_string)


def add_run_arguments(parser):
    """Add the arguments that train.py and test.py share with every OpenMMLab tool."""
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (default: work_dirs/<config name>)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        default={},
        help='values that replace the config\'s: key=value, key="[a,b]", a.b.c=value',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(path, args):
    """Load a config with the command line's `--cfg-options`, `--launcher` and `--work-dir`; start gloo where needed."""
    cfg = merge_options(read_config(path), args.cfg_options)
    check_launcher(args.launcher)
    check_loaders(cfg)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    check_parallel(cfg)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if init_cpu_distributed(args.launcher):
        # mmengine fills in `device_ids`, which torch refuses for modules on the CPU.
        cfg.model_wrapper_cfg = dict(
            dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False),
            **cfg.get('model_wrapper_cfg') or {},
        )
    return cfg


def read_config(path):
    """Load a config file; whatever is wrong with it is told with its path."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config file {path!r} (from {Path.cwd()})')
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        raise ConfigError(f'{path}, line {error.lineno}: {error.msg}') from error
    except ImportError as error:
        raise ConfigError(
            f'{path}: {error.__cause__ or error} (custom_imports; is its folder in PYTHONPATH?)'
        ) from error
    except Exception as error:  # a config is a program, and may raise anything
        raise ConfigError(f'{path}: {type(error).__name__}: {error}') from error


def merge_options(cfg, options):
    """Merge `--cfg-options` into a config."""
    for key, value in options.items():
        try:
            cfg.merge_from_dict({key: copy.deepcopy(value)})
        except (TypeError, KeyError, ValueError, IndexError, AssertionError) as error:
            raise ConfigError(f'--cfg-options {key}={value}: {error}') from error
    return cfg


def check_launcher(launcher):
    """Raise a ConfigError unless the launcher's environment is there."""
    variable, script = LAUNCHERS.get(launcher, ('PATH', ''))
    if not any(name in os.environ for name in variable.split(' or ')):
        tool = Path(sys.argv[0]).stem
        hint = f'; start with: bash tools/{script.format(tool=tool)}' if script else ''
        raise ConfigError(f'--launcher {launcher}: the environment has no {variable}{hint}')


def check_loaders(cfg):
    """Raise a ConfigError for numbers in the loaders' configs that torch refuses without naming a key."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for key, least in (('batch_size', 1), ('num_workers', 0)):
            value = (cfg.get(name) or {}).get(key, least)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f'{name}.{key}: expected an integer >= {least}, got {value!r}')


def check_optimisers(cfg):
    """Raise a ConfigError where an OnlineDistiller would be trained with one optimiser for all."""
    if 'members' in cfg.model and not (cfg.get('optim_wrapper') or {}).get('constructor'):
        raise ConfigError(
            'optim_wrapper.constructor: must be given for an OnlineDistiller, whose members have an optimiser '
            "each: 'mmkd.MemberOptimWrapperConstructor'"
        )


def positive(text):
    """A type of argparse: an integer from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected an integer >= 1, got {text!r}')
    return int(text)


def run_tool(main):
    """Run a tool's `main()`; a wrong input ends it with one message and exit status 1 (MMKD_TRACEBACK=1: the traceback too)."""
    try:
        main()
    except INPUT_ERRORS as error:
        if os.environ.get('MMKD_TRACEBACK') == '1':
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            str(error.args[0] if isinstance(error, KeyError) and error.args else error)
            or type(error).__name__
        )
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f'{error.filename}: {error.strerror}' + (
                ' (a folder is to be made there)' if error.errno == EEXIST else ''
            )
        if (
            'in DataLoader worker process' in text.split('\n')[0]
        ):  # the worker's traceback, which ends in the message
            text = text.strip().splitlines()[-1].partition(': ')[2]
        print(
            f'\nerror: {text}\n(raised in {Path(where.filename).name}:{where.lineno}; MMKD_TRACEBACK=1 shows the way there)',
            file=sys.stderr,
        )
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
