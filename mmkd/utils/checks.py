"""Checks of configs that fail early, with the key, the value and the nearest valid name."""

import difflib
import inspect

from mmkd.utils.errors import ConfigError


def choose(value, choices, key):
    """Return `value` if it is one of `choices`, else raise a ConfigError that names the nearest one.

    Args:
        value (str): What the config says.
        choices (iterable[str]): The valid names.
        key (str): The config key, for the message.
    """
    choices = [str(choice) for choice in choices]
    if value in choices:
        return value
    nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ''
    listed = ', '.join(choices[:30]) + (', ...' if len(choices) > 30 else '')
    raise ConfigError(f'{key}: unknown name {value!r}; {hint}valid: {listed or "none"}')


def check_arguments(target, arguments, key, given=()):
    """Raise a ConfigError if a name in `arguments` is no parameter of the callable `target`, or one without default lacks.

    Args:
        given (iterable[str]): Parameters that the caller fills in and the config may not set.
    """
    parameters = list(inspect.signature(target).parameters.values())
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


def check_number(value, key, least=0.0, most=float('inf')):
    """Raise a ConfigError unless `value` is a finite number (no text, no bool) in [least, most]."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not least <= value <= most
        or abs(value) == float('inf')
    ):
        expected = (
            f'a number in [{least:g}, {most:g}]'
            if most < float('inf')
            else f'a number >= {least:g}'
        )
        raise ConfigError(f'{key}: expected {expected}, got {value!r}')


def build_checked(registry, cfg, key, **given):
    """Build `cfg` from `registry`, with an early error for an unknown type or argument.

    Args:
        cfg (dict | str): A config with `type`, or the type's name alone.
        key (str): Where the config stands, for messages.
        **given: Arguments that the caller adds.
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
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{key}: {error}') from error
