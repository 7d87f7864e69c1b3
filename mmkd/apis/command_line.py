"""What the tools share: arguments, configs, and errors as one message with a non-zero exit status.

The tools parse their arguments before they import anything heavy, so that `--help` and a wrong
command line answer at once; hence the imports inside functions.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.utils.errors import ConfigError, message_of, shown_without_traceback

if TYPE_CHECKING:
    from mmengine.config import Config

# What each launcher sets, and the script that starts it.
LAUNCHERS = dict(
    pytorch=('RANK', 'dist_{tool}.sh CONFIG PROCESSES'),
    slurm=('SLURM_PROCID', 'slurm_{tool}.sh PARTITION JOB CONFIG'),
    mpi=('OMPI_COMM_WORLD_RANK or PMI_RANK', ''),
)
# What a Runner's config has as dicts.
PARTS = (
    *(f'{kind}_{part}' for kind in ('train', 'val', 'test') for part in ('cfg', 'dataloader')),
    'optim_wrapper',
    'default_hooks',
    'randomness',
)
MERGE_ERRORS = (
    AttributeError,
    TypeError,
    KeyError,
    ValueError,
    IndexError,
    AssertionError,
    SyntaxError,
)
# What a plain config's model has, and the members have in its place.
NETWORK_PARTS = (
    'backbone',
    'neck',
    'head',
    'bbox_head',
    'rpn_head',
    'roi_head',
    'mask_head',
    'decode_head',
    'auxiliary_head',
)
COUNTS_EPOCHS = dict(ResumableTrainLoop=True, ResumableIterTrainLoop=False)
MEMBER_OPTION = re.compile(r'model\.members\.(\w+)\.options\.(.+)')


class Options(argparse.Action):
    """`key=value` arguments as OpenMMLab's tools take them; `merge_options` reads the values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Collect the values' texts by key; the last of one key counts."""
        options = dict(getattr(namespace, self.dest) or {})
        for item in values:
            key, equals, value = item.partition('=')
            if not equals or not key.strip():
                parser.error(f'{option_string}: expected KEY=VALUE, got {item!r}')
            options[key.strip()] = value
        setattr(namespace, self.dest, options)


def add_options_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        default={},
        metavar='KEY=VALUE',
        help='values that replace the config\'s: key=value, key="[a,b]", key="{...}", a.b.c=value',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that train.py and test.py share with every OpenMMLab tool."""
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (default: work_dirs/<config name>)'
    )
    add_options_argument(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def positive(text: str) -> int:
    """Read an integer from 1 on; a type of argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected an integer >= 1, got {text!r}')
    return int(text)


# Whether the process runs one config and ends: what the config does not ask for is not imported.
_one_config = False


def run_tool(main: Callable[[], None], one_config: bool = True) -> None:
    """Run a tool's `main()`; a wrong input or a full disk ends it with one message and status 1.

    With MMKD_TRACEBACK=1 in the environment the traceback is shown, too. Every other exception
    keeps its traceback.

    Args:
        main: Parses the command line and does the work.
        one_config: Whether it builds the networks of one config alone: toolboxes that this config
            does not ask for are then not imported.
    """
    global _one_config
    _one_config = one_config
    try:
        main()
    except Exception as error:
        if not shown_without_traceback(error):
            raise
        if os.environ.get('MMKD_TRACEBACK') == '1':
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = message_of(error)
        if 'in DataLoader worker process' in text.split('\n')[0]:
            # The worker's traceback, which ends in the message.
            text = text.strip().splitlines()[-1].partition(': ')[2]
        print(
            f'\nerror: {text}\n(raised in {Path(where.filename).name}:{where.lineno}; '
            'MMKD_TRACEBACK=1 shows the way there)',
            file=sys.stderr,
        )
        sys.exit(1)


# ---------------------------------------------------------------- configs


def load_config(path: str, args: argparse.Namespace) -> Config:
    """Load a config with the command line's `--cfg-options`, `--launcher` and `--work-dir`.

    Starts gloo where a launcher asks for several processes and there is no GPU.
    """
    from mmkd.utils.distributed import check_parallel, init_cpu_distributed

    cfg = merge_options(read_config(path), args.cfg_options)
    if not isinstance(cfg.get('model'), dict):
        raise ConfigError(f'{path}: model: expected a dict, got {cfg.get("model")!r}')
    check_launcher(args.launcher)
    check_names(cfg)
    check_values(cfg)
    check_loaders(cfg)
    check_schedules(cfg)
    fit_inherited(cfg)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    check_parallel(cfg)
    if cfg.get('compile') and 'members' in cfg.model:
        # mmengine would compile the whole training step, hooks and random streams included.
        cfg.model.setdefault('compile', cfg.pop('compile'))
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    wrapper: dict[str, Any] = {}
    if init_cpu_distributed(args.launcher):
        # mmengine fills in `device_ids`, which torch refuses for modules on the CPU.
        wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    if cfg.model.get('in_turns') and args.launcher != 'none':
        wrapper.update(type='mmkd.MemberDistributedDataParallel', broadcast_buffers=False)
    if wrapper:
        cfg.model_wrapper_cfg = dict(wrapper, **cfg.get('model_wrapper_cfg') or {})
    return cfg


def read_config(path: str | Path) -> Config:
    """Load a config file, or `package::path`; whatever is wrong with it is told with its path."""
    from mmengine.config import Config

    # Imported, it also lets `_base_` name such configs.
    from mmkd.utils.config import package_config_folder, package_config_path

    path = str(path)
    if '::' in path:
        path = package_config_path(path, 'config')
    if not Path(path).is_file():
        own = package_config_folder('mmkd', 'config') / 'mmkd' / path
        hint = f"; mmkd's own is 'mmkd::mmkd/{path}'" if own.is_file() else ''
        raise ConfigError(f'no config file {path!r} (from {Path.cwd()}){hint}')
    try:
        return Config.fromfile(path)
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f'{path}, line {error.lineno}: {error.msg}') from error
    except ImportError as error:
        raise ConfigError(
            f'{path}: {error.__cause__ or error} (custom_imports; is its folder in PYTHONPATH?)'
        ) from error
    except Exception as error:  # a config is a program, and may raise anything
        raise ConfigError(f'{path}: {type(error).__name__}: {error}') from error


def import_toolbox(cfg: Config) -> None:
    """Import the config's toolbox, without what it says of optional parts that nobody asked for."""
    import contextlib
    import importlib
    import io
    import warnings

    from mmkd.utils.config_errors import BUILD_ERRORS
    from mmkd.utils.light_imports import light_imports, toolboxes_without_need
    from mmkd.utils.packages import installed

    warnings.filterwarnings('ignore', message='torch.meshgrid: in an upcoming release')
    toolbox, said = cfg.get('default_scope'), io.StringIO()
    if toolbox not in ('mmdet', 'mmseg', 'mmpretrain') or not installed(toolbox):
        return
    with contextlib.redirect_stdout(said):
        hidden = toolboxes_without_need(cfg) if _one_config and 'pretrain' not in cfg else []
        # Errors are told by their keys when the config is built.
        with contextlib.suppress(*BUILD_ERRORS), light_imports(hidden):
            for part in ('datasets', 'evaluation', 'models'):
                importlib.import_module(f'{toolbox}.{part}')
    rest = [line for line in said.getvalue().splitlines() if 'Could not import OneDL' not in line]
    if rest:
        print('\n'.join(rest))


def merge_options(cfg: Config, options: Mapping[str, Any]) -> Config:
    """Merge `--cfg-options` into a config.

    Keys below a member's `options` stay dotted, as options are written: they add to the config's
    own and replace none but themselves.

    Args:
        cfg: Changed in place.
        options: By dotted key the value, or its text as the command line has it.
    """
    for key, value in options.items():
        try:
            if isinstance(value, str):
                value = _value_of(value)
            found = MEMBER_OPTION.fullmatch(key)
            if found:
                name, option = found.groups()
                member = cfg.model.members[name]
                member['options'] = dict(member.get('options') or {}, **{option: value})
            else:
                cfg.merge_from_dict({key: value})
        except MERGE_ERRORS as e:
            raise ConfigError(f'--cfg-options {key}={value}: {e}') from e
    return cfg


def fit_inherited(cfg: Config) -> None:
    """Fit what a config of members inherits from the config of one network, in place.

    A top-level `data_preprocessor` serves the networks that have none of their own, as in the
    toolboxes. mmengine's Runner would make it that of all members. `train_cfg.by_epoch`, which it
    refuses beside a `type`, is dropped where the type is one of mmkd's loops that counts so.

    Raises:
        ConfigError: If a member's config cannot be read, or if `by_epoch` contradicts the loop.
    """
    loop = cfg.get('train_cfg') or {}
    by_epoch = COUNTS_EPOCHS.get(str(loop.get('type')).removeprefix('mmkd.'))
    if by_epoch is not None and loop.pop('by_epoch', by_epoch) != by_epoch:
        raise ConfigError(
            f'train_cfg.by_epoch: expected {by_epoch} with {loop["type"]}, or none, got '
            f'{not by_epoch}'
        )
    model = cfg.get('model')
    members = model.get('members') if isinstance(model, dict) else None
    if not isinstance(members, dict) or cfg.get('data_preprocessor') is None:
        return
    from mmkd.models.distillers.member_spec import MemberSpec

    preprocessor = cfg.pop('data_preprocessor')
    if 'data_preprocessor' in model:
        return  # then a member without one takes the shared images as they are
    for name, member in members.items():
        if not isinstance(member, dict):
            continue
        # Its options may name keys of the preprocessor that it is about to get.
        network = MemberSpec.from_config(name, dict(member, options=None)).config
        if network is not None and 'data_preprocessor' not in network:
            network.data_preprocessor = copy.deepcopy(preprocessor)
            member['config'] = network


def _value_of(text: str) -> Any:
    """Read a value as OpenMMLab's tools do; dicts, and lists of them, as Python writes them."""
    from mmengine.config import DictAction

    if text.startswith(('{', '[', '(')) and '{' in text:
        return ast.literal_eval(text)
    try:
        return DictAction._parse_iterable(text)
    except RecursionError as error:  # brackets behind a name: dict(a=1, b=2)
        raise ValueError("expected a value, a list, or a dict as {'key': value}") from error


def check_launcher(launcher: str) -> None:
    """Raise a ConfigError unless the launcher's environment is there."""
    variable, script = LAUNCHERS.get(launcher, ('PATH', ''))
    if not any(name in os.environ for name in variable.split(' or ')):
        tool = Path(sys.argv[0]).stem
        hint = f'; start with: bash tools/{script.format(tool=tool)}' if script else ''
        raise ConfigError(f'--launcher {launcher}: the environment has no {variable}{hint}')


def check_names(cfg: Config) -> None:
    """Raise a ConfigError for a top-level name that is nearly one of the Runner's.

    Configs may have variables of their own, so that mmengine leaves a misspelt name unread.
    """
    from difflib import get_close_matches
    from inspect import signature

    from mmengine.runner import Runner

    known = {*signature(Runner.__init__).parameters}
    known |= {'unlabeled_dataloader', 'custom_imports', 'pretrain'}
    for name in cfg:
        nearest = get_close_matches(name, known, n=1, cutoff=0.88)
        if name not in known and len(name) > 6 and nearest:
            raise ConfigError(f"{name}: unknown name; did you mean '{nearest[0]}'?")


def check_values(cfg: Config) -> None:
    """Raise a ConfigError for a value at the top level that is of another kind than expected."""
    from mmkd.utils.checks import check_integer, choose

    if 'type' not in cfg.model:
        raise ConfigError("model.type: must be given ('mmkd.OnlineDistiller')")
    if 'members' in cfg.model:
        parts = [key for key in cfg.model if key in NETWORK_PARTS and cfg.model[key]]
        if parts:
            raise ConfigError(
                f'model.{parts[0]}: a part of one network, but there are members; if it comes from '
                'a _base_, say model = dict(_delete_=True, ...)'
            )
    for name, kinds, expected in (
        ('work_dir', (str, Path), 'a path'),
        ('load_from', (str,), 'a path or URL'),
        ('resume', (bool,), 'True or False'),
        ('custom_hooks', (list, tuple), 'a list'),
    ):
        value = cfg.get(name)
        if value is not None and not isinstance(value, kinds):
            raise ConfigError(f'{name}: expected {expected}, got {value!r}')
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None:
        check_integer(seed, 'randomness.seed', 0, 2**32 - 1)
    level = cfg.get('log_level') or 'INFO'
    if not isinstance(level, int):
        choose(level, ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'), 'log_level')


def check_loaders(cfg: Config) -> None:
    """Raise a ConfigError for numbers of loops and loaders that cannot be meant, by their keys."""
    from mmkd.utils.checks import check_integer, check_sampler

    for name in PARTS:
        if cfg.get(name) is not None and not isinstance(cfg[name], dict):
            raise ConfigError(f'{name}: expected a dict, got {cfg[name]!r}')
    train_cfg = cfg.get('train_cfg') or {}
    for name, least in (('max_epochs', 1), ('max_iters', 1), ('val_interval', 1), ('val_begin', 0)):
        check_integer(train_cfg.get(name, 1), f'train_cfg.{name}', least, 10**9)
    for i, pair in enumerate(train_cfg.get('dynamic_intervals') or []):
        check_integer(pair[-1], f'train_cfg.dynamic_intervals[{i}]', 1, 10**9)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader is None:
            continue
        if not isinstance(loader.get('dataset'), dict):
            raise ConfigError(f'{name}.dataset: expected a dict, got {loader.get("dataset")!r}')
        for key in ('sampler', 'batch_sampler'):
            if not isinstance(loader.get(key), dict | None):
                raise ConfigError(f'{name}.{key}: expected a dict, got {loader[key]!r}')
        for key, least in (('batch_size', 1), ('num_workers', 0)):
            check_integer(loader.get(key, least), f'{name}.{key}', least)
    for mode in ('val', 'test'):
        parts = [f'{mode}_{part}' for part in ('dataloader', 'cfg', 'evaluator')]
        given = [name for name in parts if cfg.get(name) is not None]
        if given and len(given) < len(parts):
            missing = next(name for name in parts if name not in given)
            raise ConfigError(f'{missing}: must be given, as there is {" and ".join(given)}')
    for mode in ('train', 'unlabeled', 'val', 'test'):
        check_sampler(cfg.get(f'{mode}_dataloader'), f'{mode}_dataloader')


def check_schedules(cfg: Config) -> None:
    """Raise a ConfigError for numbers of learning rate schedules that cannot be meant."""
    from mmkd.utils.checks import check_number

    schedules = cfg.get('param_scheduler') or []
    for i, schedule in enumerate(schedules if isinstance(schedules, list) else [schedules]):
        for name, value in schedule.items() if isinstance(schedule, dict) else ():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and name != 'last_step':
                # mmengine writes 10**9 for a schedule without end.
                check_number(value, f'param_scheduler[{i}].{name}', most=10**9)


def check_optimizers(cfg: Config) -> None:
    """Raise a ConfigError where an OnlineDistiller would be trained with one optimizer for all."""
    wrapper = cfg.get('optim_wrapper') or {}
    if 'members' not in cfg.model:
        return
    own = "'mmkd.MemberOptimWrapperConstructor'"
    if not wrapper.get('constructor'):
        raise ConfigError(
            'optim_wrapper.constructor: must be given for an OnlineDistiller, whose members have '
            f'an optimizer each: {own}'
        )
    if not isinstance(wrapper['constructor'], (str, type)):
        raise ConfigError(
            f'optim_wrapper.constructor: expected a name, got {wrapper["constructor"]!r}'
        )
    members = wrapper.get('members')
    members = members if isinstance(members, dict) else {}
    named = {f'optim_wrapper.members.{name}': part for name, part in members.items()}
    for key, part in {'optim_wrapper': wrapper, **named}.items():
        name = part.get('constructor') if isinstance(part, dict) else None
        if name is not None and (part is not wrapper or _is_of_one_network(name, cfg)):
            raise ConfigError(
                f'{key}.constructor: {name!r} builds the optimizer of one network: name it as '
                f'{key}.member_constructor, and {own} as optim_wrapper.constructor'
            )


def _is_of_one_network(name: str | type, cfg: Config) -> bool:
    named = name if isinstance(name, str) else name.__name__
    if named.rpartition('.')[2] == 'MemberOptimWrapperConstructor':
        return False  # before a search that imports whole toolboxes
    from mmengine.optim import DefaultOptimWrapperConstructor
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

    with OPTIM_WRAPPER_CONSTRUCTORS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        cls = registry.get(name) if isinstance(name, str) else name
    return isinstance(cls, type) and issubclass(cls, DefaultOptimWrapperConstructor)


# ---------------------------------------------------------------- tables


def metric_table(
    metrics: Mapping[str, Any],
    rows: Sequence[str],
    columns: Mapping[str, str],
) -> str:
    """Format metrics `row/column` as a text table, see `align_members`.

    Args:
        metrics: All metrics.
        rows: Members.
        columns: Heading by metric name.
    """
    from mmkd.utils.text import align_members

    lines = [['member', *columns.values()]]
    lines += [
        [row, *(_number(metrics.get(f'{row}/{column}')) for column in columns)] for row in rows
    ]
    return align_members(lines)


def _number(value: Any) -> str:
    if value is None:
        return '-'
    return value if isinstance(value, str) else f'{value:.3f}'
