"""The configs of a study's runs, and their results as small JSON files."""

import ast
import copy
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmkd
from mmkd.apis.command_line import MERGE_ERRORS, merge_options, read_config
from mmkd.apis.study.plan import Plan
from mmkd.models.distillers.member_spec import derived_seed
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.files import write_atomically

# Distributions whose versions a result names, where they are installed.
DISTRIBUTIONS = (
    'torch',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmsegmentation',
    'onedl-mmpretrain',
    'mmengine',
    'mmcv',
    'mmdet',
    'mmsegmentation',
    'mmpretrain',
)
RESULT_TYPES: dict[str, type | tuple[type, ...]] = dict(
    study=str,
    arm=str,
    seed=int,
    trial=bool,
    plan_hash=str,
    config_hash=str,
    mmkd=str,
    commits=list,
    versions=dict,
    iterations=int,
    minutes=(int, float),
    parameters=dict,
    metrics=dict,
)


def run_config(plan: Plan, arm: str, seed: int, options: dict[str, Any] | None = None) -> Config:
    """Return the config of one run: the plan's changes, the arm's, and the seeds.

    Args:
        plan: The plan.
        arm: Name of the arm.
        seed: Seed of the run: of data order and augmentation, of each member, and of `seed_keys`.
        options: Further changes of a trial.

    Raises:
        ConfigError: If a change or a seed key does not fit the config.
    """
    cfg = copy.deepcopy(_base_config(str(plan.root / plan.config)))
    for key, changes in (('changes', plan.changes), (f'arms.{arm}', plan.arms[arm])):
        try:
            _check_dropped(cfg, changes)
            cfg.merge_from_dict(copy.deepcopy(changes))
        except MERGE_ERRORS as error:
            raise ConfigError(f'{key}: {error}') from error
    merge_options(cfg, options or {})
    seeds: dict[str, int] = {'randomness.seed': seed}
    if (cfg.get('default_hooks') or {}).get('checkpoint'):
        seeds['default_hooks.checkpoint.max_keep_ckpts'] = 1
    for name, member in ((cfg.get('model') or {}).get('members') or {}).items():
        if member is not None:
            seeds[f'model.members.{name}.seed'] = derived_seed(seed, name)
    seeds.update({key: seed for key in plan.seed_keys if _has(cfg, key)})
    cfg.merge_from_dict(seeds)
    return cfg


def check_arms(plan: Plan, options: dict[str, Any] | None = None) -> dict[tuple[str, int], str]:
    """Return the config hash of each run of the plan.

    Raises:
        ConfigError: If a change does not fit, a seed key is in no arm's config, a figure is of a
            member that an arm does not have, or two arms are the same.
    """
    hashes = {}
    for arm in plan.arms:
        for seed in plan.seeds:
            cfg = run_config(plan, arm, seed, options)
            _check_members(plan, arm, cfg)
            hashes[arm, seed] = config_hash(cfg, plan.root)
    for key in plan.seed_keys:
        if not any(_has(run_config(plan, arm, plan.seeds[0]), key) for arm in plan.arms):
            raise ConfigError(f"seed_keys: no arm's config has {key!r}; the key must be there")
    by_hash: dict[str, tuple[str, int]] = {}
    for run, value in hashes.items():
        if value in by_hash and not options:  # a trial's may level out what differs
            raise ConfigError(f'arms: {by_hash[value][0]!r} and {run[0]!r} are the same config')
        by_hash[value] = run
    return hashes


def config_hash(cfg: Config, root: Path) -> str:
    """Return a hash of all that a config says, in whatever order it says it.

    Configs of one's own that it names, of members' networks and of the stage before, count with
    what they say; those of a toolbox by name, as a result has the toolbox's version.

    Args:
        cfg: The config of a run.
        root: The folder that trainings are started in, from which it names files.
    """
    values = cfg.to_dict()
    members = list(((values.get('model') or {}).get('members') or {}).values())
    for part in [*members, values.get('pretrain')]:
        named = part.get('config') if isinstance(part, dict) else None
        if isinstance(named, str) and '::' not in named and (root / named).is_file():
            part['config'] = read_config(root / named).to_dict()
    text = json.dumps(values, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_config(cfg: Config, path: Path) -> None:
    """Write a config as Python, in its own order (`Config.dump` sorts the members).

    Raises:
        ConfigError: If the config holds values that Python cannot read back.
    """
    values = cfg.to_dict()
    for key, value in values.items():
        try:
            ast.literal_eval(repr(value))
        except (ValueError, SyntaxError) as error:
            raise ConfigError(
                f'{key}: a study needs a config of plain values, got {value!r}'
            ) from error
    text = ''.join(f'{key} = {value!r}\n' for key, value in values.items())
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    write_atomically(path, lambda temporary: Path(temporary).write_text(text))


def expected_metrics(plan: Plan, arm: str) -> list[str]:
    """Return the metrics that an arm's validation must have for the plan's comparisons."""
    members = [plan.members_of(arm)]
    for comparison in plan.comparisons:
        if comparison.arm == arm:
            members.append(comparison.members)
        if comparison.control == arm:
            members.append(comparison.control_members)
    return sorted({key for names in members for key in metric_keys(names, plan.metric)})


def metric_keys(members: tuple[str, ...], metric: str) -> list[str]:
    """Return `member/metric` of each member; the metric alone where there are no members."""
    return [f'{member}/{metric}' for member in members] or [metric]


def result_path(plan: Plan, arm: str, seed: int) -> Path:
    """Return the file of a run's result."""
    return plan.folder / 'results' / f'{arm}_seed{seed}.json'


def run_folder(plan: Plan, arm: str, seed: int) -> Path:
    """Return the work folder of a run."""
    return plan.runs / f'{arm}_seed{seed}'


def read_results(plan: Plan) -> dict[tuple[str, int], dict]:
    """Read the results that there are of the plan's runs, whatever they are results of.

    Raises:
        ConfigError: If a file is damaged, or is not the result that its name says.
    """
    found = {}
    for arm in plan.arms:
        for seed in plan.seeds:
            path = result_path(plan, arm, seed)
            if not path.is_file():
                continue
            try:
                result = json.loads(path.read_text())
                _check_result(result)
            except ValueError as error:
                raise ConfigError(f'{path}: no result of a study: {error}') from error
            expected = dict(study=plan.name, arm=arm, seed=seed, trial=plan.trial)
            for key, value in expected.items():
                if result[key] != value:
                    raise ConfigError(
                        f'{path}: no result of this run: its {key} is {result[key]!r}, expected '
                        f'{value!r}'
                    )
            found[arm, seed] = result
    return found


def is_stale(plan: Plan, result: dict, hashed: str) -> str:
    """Return what a result differs in from the plan's run: 'config', 'plan' or ''."""
    if result['config_hash'] != hashed:
        return 'config'
    return 'plan' if result['plan_hash'] != plan.hash else ''


def write_result(
    plan: Plan, arm: str, seed: int, hashed: str, commits: list[str], run: dict
) -> Path:
    """Write a finished run's result beside the plan.

    Args:
        plan: The plan.
        arm: Name of the arm.
        seed: Seed of the run.
        hashed: The config's hash.
        commits: Commits of the sources that the run was started and gone on with.
        run: What `StudyResultHook` wrote.

    Raises:
        ConfigError: If a metric that the plan asks for is missing.
    """
    for name in expected_metrics(plan, arm):
        choose(name, run['metrics'], f'primary.metric: the result of {arm}, seed {seed}')
    result = dict(
        study=plan.name,
        arm=arm,
        seed=seed,
        trial=plan.trial,
        plan_hash=plan.hash,
        config_hash=hashed,
        mmkd=mmkd.__version__,
        commits=commits,
        versions=_versions(),
        finished=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        iterations=run['iterations'],
        minutes=run['minutes'],
        parameters=run['parameters'],
        frozen=run['frozen'],
        metrics={key: _rounded(value) for key, value in sorted(run['metrics'].items())},
    )
    path = result_path(plan, arm, seed)
    text = json.dumps(result, indent=1) + '\n'
    write_text(path, text)
    return path


@lru_cache(maxsize=4)
def _base_config(path: str) -> Config:
    return read_config(path)


def _has(cfg: Config, key: str) -> bool:
    value: Any = cfg
    for part in key.split('.'):
        if isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, (Config, dict)) and part in value:
            value = value[part]
        else:
            return False
    return True


def _check_dropped(cfg: Config, changes: dict[str, Any]) -> None:
    """Raise a ConfigError for a None in place of a key that is not there: a misspelt one."""
    for path in _dropped(changes):
        found: Any = cfg
        for i, part in enumerate(path):
            if isinstance(found, (list, tuple)):
                names = [str(place) for place in range(len(found))]
            else:
                names = list(found) if isinstance(found, (Config, dict)) else []
            choose(part, names, f'{".".join(path)} is dropped by None, {".".join(path[:i])}')
            found = found[int(part)] if isinstance(found, (list, tuple)) else found[part]


def _dropped(changes: dict[str, Any]) -> Iterator[list[str]]:
    """Return the keys, in parts, whose value is None."""
    for key, value in changes.items():
        if value is None:
            yield key.split('.')
        elif isinstance(value, dict) and not value.get('_delete_'):
            yield from ([*key.split('.'), *rest] for rest in _dropped(value))


def _check_members(plan: Plan, arm: str, cfg: Config) -> None:
    """Raise a ConfigError for a figure of a member that an arm does not have."""
    model = cfg.get('model') or {}
    members = [name for name, member in (model.get('members') or {}).items() if member is not None]
    if not members:
        return
    averages = [f'{name}_ema' for name in members]  # that presets add
    known = [*members, *averages, 'ensemble']
    for key in expected_metrics(plan, arm):
        member = key.removesuffix(f'/{plan.metric}')
        choose(member, known, f'arms.{arm}: a member whose figure is compared')


def _check_result(result: Any) -> None:
    """Raise a ValueError for what `write_result` does not write."""
    if not isinstance(result, dict):
        raise ValueError(f'expected an object, got {result!r}')
    for key, kind in RESULT_TYPES.items():
        if not isinstance(result.get(key), kind):
            raise ValueError(f'its {key!r} is {result.get(key)!r}')
    numbers = dict(result['metrics'], minutes=result['minutes'])
    for key, value in numbers.items():
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise ValueError(f'its {key!r} is {value!r}; expected a number or null')


def _versions() -> dict[str, str]:
    found = dict(python=platform.python_version())
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
