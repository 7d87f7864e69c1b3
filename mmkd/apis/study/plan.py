"""The plan of a study: a config file in git that says what is compared before anything is run."""

import hashlib
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmkd.apis.command_line import read_config
from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError

KEYS = (
    'title',
    'config',
    'changes',
    'arms',
    'control',
    'controls',
    'primary',
    'arm_members',
    'metrics',
    'seeds',
    'seed_keys',
    'comparisons',
    'test',
    'budget',
    'hypotheses',
)
REQUIRED = ('title', 'config', 'arms', 'control', 'primary', 'seeds', 'budget', 'hypotheses')


@dataclass(frozen=True)
class Comparison:
    """An arm against a control: the mean of `members` of the one less that of the other.

    `at_least` is the target: the gain that the study hopes for.
    """

    arm: str
    control: str
    members: tuple[str, ...]
    control_members: tuple[str, ...]
    at_least: float | None = None
    text: str = ''

    def same_as(self, other: 'Comparison') -> bool:
        """Whether both compare the same figures."""
        return replace(self, at_least=None, text='') == replace(other, at_least=None, text='')


@dataclass(frozen=True)
class Plan:
    """A checked plan. `root` is where its paths start; `hash` is the blob's name in git."""

    path: Path
    root: Path
    hash: str
    title: str
    config: str
    arms: dict[str, dict[str, Any]]
    control: str
    metric: str
    members: tuple[str, ...]
    seeds: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    hypotheses: str
    budget: str
    max_minutes: float = float('inf')
    higher_is_better: bool = True
    arm_members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    seed_keys: tuple[str, ...] = ()
    test: str = 'permutation'
    trial: bool = False

    @property
    def name(self) -> str:
        """The study's name: that of the plan's folder."""
        return self.path.parent.name

    @property
    def runs(self) -> Path:
        """The folder of the trainings, outside git."""
        return self.root / 'work_dirs/studies' / (self.name + '_trial' * self.trial)

    @property
    def folder(self) -> Path:
        """The folder of the results and the report: beside the plan, for a trial with its runs."""
        return self.runs if self.trial else self.path.parent

    def members_of(self, arm: str) -> tuple[str, ...]:
        """The members whose mean is an arm's primary figure; none for a config without members."""
        return self.arm_members.get(arm, self.members)


def load_plan(path: str | Path, trial: bool = False) -> Plan:
    """Read and check a plan.

    Args:
        path: A Python config (MMEngine's syntax, without `_base_`), `docs/studies/<name>/plan.py`.
        trial: A trial may have an uncommitted plan. Its runs and results stay in `work_dirs`.

    Raises:
        ConfigError: For a missing or unknown key, a wrong value, or a plan that is not committed.
    """
    values = read_config(str(path)).to_dict()
    path = Path(path).resolve()
    if re.search(r'^_base_\s*=', path.read_text(), re.MULTILINE):
        raise ConfigError(f'{path.name}: a plan is one file, without _base_ (docs/studies.md)')
    raw = {key: value for key, value in values.items() if not key.startswith('_')}
    for key in raw:
        choose(key, KEYS, f'{path.name}: key')
    for key in REQUIRED:
        if not raw.get(key):
            raise ConfigError(f'{path.name}: {key!r} must be given')
    for key in ('title', 'config', 'hypotheses'):
        if not isinstance(raw[key], str):
            raise ConfigError(f'{key}: expected text, got {raw[key]!r}')
    arms = _dict(raw['arms'], 'arms')
    for arm in arms:
        if not re.fullmatch(r'[\w-]+', str(arm)):
            raise ConfigError(f'arms: {arm!r} is no name of letters, digits, - and _')
    control = choose(raw['control'], arms, 'control')
    primary = _dict(raw['primary'], 'primary')
    for key in primary:
        choose(key, ('metric', 'members', 'direction'), 'primary key')
    if not isinstance(primary.get('metric'), str):
        raise ConfigError(
            f'primary.metric: expected a metric without its member, such as '
            f"'coco/bbox_mAP', got {primary.get('metric')!r}"
        )
    direction = choose(primary.get('direction', 'higher'), ('higher', 'lower'), 'primary.direction')
    members = _names(primary.get('members', []), 'primary.members')
    arm_members = {
        choose(arm, arms, 'arm_members'): _names(names, f'arm_members.{arm}')
        for arm, names in _dict(raw.get('arm_members', {}), 'arm_members').items()
    }
    controls = _dict(raw.get('controls', {}), 'controls')
    for name in controls:
        choose(name, arms, 'controls')
    budget = _dict(raw['budget'], 'budget')
    for key in budget:
        choose(key, ('text', 'max_minutes'), 'budget key')
    if 'max_minutes' in budget:
        check_number(budget['max_minutes'], 'budget.max_minutes', 1e-3)
    plan = Plan(
        path=path,
        root=_root(path),
        hash=blob_hash(path),
        title=raw['title'],
        config=raw['config'],
        arms={arm: _dict(changes, f'arms.{arm}') for arm, changes in arms.items()},
        control=control,
        metric=primary['metric'],
        members=members,
        seeds=_seeds(raw['seeds']),
        comparisons=_comparisons(raw.get('comparisons'), arms, control, members, arm_members),
        hypotheses=raw['hypotheses'].strip(),
        budget=str(budget.get('text', '')).strip(),
        max_minutes=budget.get('max_minutes', float('inf')),
        higher_is_better=direction == 'higher',
        arm_members=arm_members,
        changes=_dict(raw.get('changes', {}), 'changes'),
        controls=controls,
        metrics=_names(raw.get('metrics', []), 'metrics'),
        seed_keys=_names(raw.get('seed_keys', []), 'seed_keys'),
        test=choose(raw.get('test', 'permutation'), ('permutation', 't'), 'test'),
        trial=trial,
    )
    if not trial:
        check_committed(plan)
    return plan


def check_committed(plan: Plan) -> None:
    """Raise a ConfigError unless the plan is committed as it stands."""
    committed = _git(plan.path.parent, 'rev-parse', '--verify', '-q', f'HEAD:./{plan.path.name}')
    if committed != plan.hash:
        state = 'differs from the committed one' if committed else 'is not committed'
        raise ConfigError(
            f'{plan.path}: the plan {state}; commit it before the first run, or try it out with '
            '--trial, whose results do not count'
        )


def blob_hash(path: Path) -> str:
    """Return the name that git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


def source_commit() -> str:
    """Return the commit of mmkd's sources, with '+changes' if files differ; '' without git.

    Configs are not asked for: the hash of a run's config is of all that they say.
    """
    folder = Path(__file__).resolve().parents[3]
    commit = _git(folder, 'rev-parse', 'HEAD')
    parts = [name for name in ('mmkd', 'tools') if (folder / name).is_dir()]
    changed = commit and _git(folder, 'status', '--porcelain', '--', *parts)
    return commit + '+changes' * bool(changed)


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints, '' where it fails or is not installed."""
    try:
        done = subprocess.run(
            ['git', '-C', str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ''
    return done.stdout.strip() if done.returncode == 0 else ''


def _root(path: Path) -> Path:
    return Path(_git(path.parent, 'rev-parse', '--show-toplevel') or Path.cwd()).resolve()


def _dict(value: Any, key: str) -> dict:
    if not isinstance(value, dict):
        raise ConfigError(f'{key}: expected a dict, got {value!r}')
    return value


def _names(value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f'{key}: expected a list of names, got {value!r}')
    if len(set(value)) < len(value):
        raise ConfigError(f'{key}: a name is there twice: {value!r}')
    return tuple(value)


def _seeds(value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, (list, tuple))
        or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in value)
        or not all(0 <= seed < 2**32 for seed in value)
        or len(set(value)) < len(value)
    ):
        raise ConfigError(f'seeds: expected a list of different integers >= 0, got {value!r}')
    return tuple(value)


def _comparisons(
    value: Sequence[dict] | None,
    arms: Iterable[str],
    control: str,
    members: tuple[str, ...],
    arm_members: dict[str, tuple[str, ...]],
) -> tuple[Comparison, ...]:
    """Check the planned comparisons; by default each arm against the control."""
    if value is None:
        value = [dict(arm=arm) for arm in arms if arm != control]
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f'comparisons: expected a list of dicts, got {value!r}')
    found: list[Comparison] = []
    for i, item in enumerate(value):
        key = f'comparisons[{i}]'
        for name in _dict(item, key):
            choose(name, Comparison.__dataclass_fields__, f'{key} key')
        if 'arm' not in item:
            raise ConfigError(f"{key}: 'arm' must be given")
        arm = choose(item['arm'], arms, f'{key}.arm')
        other = choose(item.get('control', control), arms, f'{key}.control')
        own = item.get('members', arm_members.get(arm, members))
        # Members named for the arm alone are meant for the control too, where it has no others.
        default = item.get('members', members) if other not in arm_members else arm_members[other]
        if item.get('at_least') is not None:
            check_number(item['at_least'], f'{key}.at_least', least=-float('inf'))
        comparison = Comparison(
            arm=arm,
            control=other,
            members=_names(own, f'{key}.members'),
            control_members=_names(item.get('control_members', default), f'{key}.control_members'),
            at_least=item.get('at_least'),
            text=item.get('text', ''),
        )
        if (arm, comparison.members) == (other, comparison.control_members):
            raise ConfigError(f'{key}: {arm!r} is compared with itself')
        if any(comparison.same_as(earlier) for earlier in found):
            raise ConfigError(f'{key}: {arm!r} over {other!r} is there twice; Holm would count two')
        found.append(comparison)
    return tuple(found)
