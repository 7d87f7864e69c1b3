"""Checks of configs that fail early, with the key, the value and the nearest valid name."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmengine.registry import Registry
from torch import nn

from mmkd.utils.errors import ConfigError

# The largest factor that can be meant: a link of weight 1e30 would be all that is learned.
LARGEST = 1e6


def choose(value: Any, choices: Iterable[Any], key: str) -> Any:
    """Return `value` if it is one of `choices`.

    Args:
        value: What the config says.
        choices: The valid names.
        key: The config key, for the message.

    Raises:
        ConfigError: If it is not; the nearest valid name is in the message.
    """
    choices = [str(choice) for choice in choices]
    if value in choices:
        return value
    nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ''
    listed = ', '.join(choices[:30]) + (', ...' if len(choices) > 30 else '')
    raise ConfigError(f'{key}: unknown name {value!r}; {hint}valid: {listed or "none"}')


def check_different(names: Sequence[Any], key: str) -> None:
    """Raise a ConfigError if a name stands twice in a list: it would count twice, in silence."""
    for name in names:
        if list(names).count(name) > 1:
            raise ConfigError(f'{key}: {name!r} stands more than once in {list(names)}')


def check_arguments(
    target: Callable, arguments: Iterable[str], key: str, given: Iterable[str] = ()
) -> None:
    """Check a config's arguments of a callable against its signature.

    Args:
        target: What the arguments are for.
        arguments: Their names.
        key: Where they stand in the config, for messages.
        given: Parameters that the caller fills in and the config may not set.

    Raises:
        ConfigError: If a name is not a parameter, or if a required parameter is missing.
    """
    arguments, given = list(arguments), list(given)
    parameters = list(inspect.signature(target).parameters.values())
    if getattr(target, '__init__', None) is nn.Module.__init__:
        parameters = []  # torch's own signature names none, and takes none
    named = [
        p
        for p in parameters
        if p.name != 'self' and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in arguments:
            choose(name, [p.name for p in named if p.name not in given], f'{key}.{name}')
    missing = [
        p.name
        for p in named
        if p.default is p.empty and p.name not in arguments and p.name not in given
    ]
    if missing:
        raise ConfigError(f'{key}: {missing[0]!r} must be given')


def check_number(value: Any, key: str, least: float = 0.0, most: float = LARGEST) -> None:
    """Raise a ConfigError unless `value` is a finite number (no text, no bool) in [least, most]."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most or abs(value) == float('inf'):
        too_large = number and value > most
        expected = (
            f'a number in [{least:g}, {most:g}]'
            if most < LARGEST or too_large
            else f'a number >= {least:g}'
        )
        raise ConfigError(f'{key}: expected {expected}, got {value!r}')


def check_integer(value: Any, key: str, least: int = 1, most: int | None = None) -> int:
    """Return `value`, or raise a ConfigError unless it is an integer (no bool) in [least, most]."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        expected = f'>= {least}' if most is None else f'in [{least}, {most}]'
        raise ConfigError(f'{key}: expected an integer {expected}, got {value!r}')
    return value


def check_sampler(loader: Any, key: str) -> None:
    """Raise a ConfigError for a loader's config without the sampler that mmengine builds."""
    if isinstance(loader, dict) and 'dataset' in loader and 'sampler' not in loader:
        shuffle = not key.startswith(('val', 'test'))
        raise ConfigError(
            f"{key}.sampler: must be given: dict(type='DefaultSampler', shuffle={shuffle})"
        )


def build_checked(registry: Registry, cfg: Mapping[str, Any] | str, key: str, **given: Any) -> Any:
    """Build an object from its config, with an early error for an unknown type or argument.

    Args:
        registry: Where the type is registered.
        cfg: A config with `type`, or the type's name alone.
        key: Where the config stands, for messages.
        **given: Arguments that the caller adds.

    Raises:
        ConfigError: For an unknown type, an unknown or missing argument, or a wrong value.
    """
    cfg = dict(type=cfg) if isinstance(cfg, str) else cfg
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise ConfigError(f"{key}: expected a config with 'type', got {cfg!r}")
    cfg = dict(cfg)
    name = cfg.pop('type')
    cls = name if inspect.isclass(name) else registry.get(name)
    if cls is None:
        choose(name, registry.module_dict, f'{key}.type')
    check_arguments(cls, cfg, key, given)
    try:
        return cls(**cfg, **given)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f'{key}: {error}') from error
