"""Every registered part: numbers that cannot be meant are refused when it is built."""

import inspect

import pytest
from mmengine.registry import Registry

from mmkd import registry
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

REGISTRIES = [value for value in vars(registry).values() if isinstance(value, Registry)]
# Values of arguments that must be given; parts that need other ones are built in tests of theirs.
GIVEN = dict(
    in_channels=4,
    out_channels=4,
    metric='mDice',
    milestones=[0.5],
    values=[0, 1],
    end=0.5,
)
ABSURD = [float('nan'), float('inf'), float('-inf'), 1e30, -1e30, 'x', [1]]


for kind in REGISTRIES:
    kind.import_from_location()


def numeric_arguments():
    """Yield (registry, name, required arguments, argument) of each number that has a default."""
    for kind in REGISTRIES:
        for name, part in sorted(kind.module_dict.items()):
            own = part.__module__.startswith('mmkd.')
            if not own or kind is registry.DATASETS:  # those read files
                continue
            parameters = [
                p
                for p in inspect.signature(part).parameters.values()
                if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            ]
            required = [p.name for p in parameters if p.default is p.empty]
            if not set(required) <= set(GIVEN):
                continue
            for parameter in parameters:
                value = GIVEN.get(parameter.name, parameter.default)
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    yield kind, name, {key: GIVEN[key] for key in required}, parameter.name


CASES = list(numeric_arguments())


@pytest.mark.parametrize(
    'kind, name, given, argument', CASES, ids=[f'{case[1]}.{case[3]}' for case in CASES]
)
def test_numbers_that_cannot_be_meant(kind, name, given, argument):
    build_checked(kind, dict(type=name, **given), 'part')
    for value in ABSURD:
        with pytest.raises(ConfigError):
            build_checked(kind, {**given, 'type': name, argument: value}, 'part')


def test_there_is_something_to_try():
    assert len(CASES) > 70
