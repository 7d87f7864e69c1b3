"""Errors of mmengine's builders, told by the key of the config that they come from."""

import inspect
import pickle
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import mmengine.registry
from mmengine.registry import Registry

from .checks import choose
from .errors import ConfigError, message_of

UNKNOWN_TYPE = re.compile(r'(\S+) is not in the (\S+?)::(.+?) registry')
UNKNOWN_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MISSING_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) missing \d+ required .*?arguments?: '(\w+)'")
ROOTS = [value for value in vars(mmengine.registry).values() if isinstance(value, Registry)]


# What wrong inputs make mmengine and the toolboxes raise while they build.
BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


@contextmanager
def naming_keys(cfg: Any, prefix: str = '') -> Iterator[None]:
    """Turn the error of a builder inside the block into a ConfigError, with its key if found.

    For building alone, where a wrong config is the likely cause: what a training raises later
    keeps its traceback.

    Args:
        cfg: What is built inside the block.
        prefix: The key of `cfg` itself.

    Raises:
        ConfigError: With key, value and the nearest valid name for an unknown type or argument;
            else with what the builder said.
    """
    try:
        yield
    except ConfigError:
        raise
    except BUILD_ERRORS as error:
        if isinstance(error, KeyError | TypeError):
            _explain(str(error.args[0]) if error.args else '', cfg, prefix, error)
        text = message_of(error)
        raise ConfigError(f'{prefix}: {text}' if prefix else text) from error


def _explain(text: str, cfg: Any, prefix: str, error: Exception) -> None:
    """Raise a ConfigError if the text is one of mmengine's about a type or argument of `cfg`."""
    found = UNKNOWN_TYPE.search(text)
    if found:
        name, scope, kind = found.groups()
        key = next(
            (f'{path}.type' for path, node in _dicts(cfg, prefix) if node.get('type') == name), None
        )
        default = cfg.get('default_scope')
        if default is not None and default not in {
            scope for root in ROOTS for scope in root.children
        }:
            key, name, names = (
                'default_scope',
                default,
                {scope for root in ROOTS for scope in root.children},
            )
        else:
            names = set(_names(kind, name.rpartition('.')[0]))
        if key is not None:
            _refuse(name, names, key, error)
    found = UNKNOWN_ARGUMENT.search(text)
    if found:
        owner, argument = found.groups()
        for path, node in _owners(cfg, prefix, owner):
            if argument in node:
                _refuse(
                    argument,
                    _parameters(node.get('type'), owner),
                    f'{path}.{argument}'.lstrip('.'),
                    error,
                )
    found = MISSING_ARGUMENT.search(text)
    if found:
        owner, argument = found.groups()
        for path, node in _owners(cfg, prefix, owner):
            if argument not in node:
                raise ConfigError(f'{path}: {argument!r} must be given') from error


def _refuse(name: str, names: Iterable[str], key: str, error: Exception) -> NoReturn:
    try:
        choose(name, sorted(set(names) - {name}), key)
    except ConfigError as refusal:
        raise refusal from error
    raise AssertionError(f'{name} is not among the names to choose from')


def _dicts(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, dict) of a config's dicts, outer ones first."""
    if isinstance(node, dict) or hasattr(node, '_cfg_dict'):
        yield path, node
        for key in node:
            yield from _dicts(node[key], f'{path}.{key}'.lstrip('.'))
    elif isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from _dicts(item, f'{path}[{i}]')


def _owners(cfg: Any, prefix: str, owner: str) -> Iterator[tuple[str, Any]]:
    """Yield the places that a class named `owner`, or one that inherits from it, is built from."""
    for path, node in _dicts(cfg, prefix):
        kind = node.get('type')
        if (
            kind is None
            and owner == 'DataLoader'
            and path.endswith('_dataloader')
            or kind is not None
            and owner in (cls.__name__ for cls in inspect.getmro(_class(kind) or object))
        ):
            yield path, node


def _class(kind: Any) -> type | None:
    if not isinstance(kind, str):
        return kind if inspect.isclass(kind) else None
    for root in ROOTS:
        for registry in (root, *root.children.values()):
            with suppress(KeyError):
                found = registry.module_dict.get(kind.rpartition('.')[2])
                if inspect.isclass(found):
                    return found
    return None


def _parameters(kind: Any, owner: str) -> set[str]:
    """Return the names of a class's arguments, and of those it passes on to its bases."""
    if owner == 'DataLoader':
        from torch.utils.data import DataLoader

        kind = DataLoader
    names: set[str] = set()
    for cls in inspect.getmro(_class(kind) or object):
        if cls is object or '__init__' not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)['__init__']).parameters.values()
        names.update(
            p.name
            for p in parameters
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != 'self'
        )
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def _names(kind: str, scope: str) -> list[str]:
    """Return the names in a kind of registry, those of a `scope` with it in front."""
    names = []
    for root in ROOTS:
        if root.name == kind:
            for registry in (root, *root.children.values()):
                if not scope or registry.scope == scope:
                    names += [f'{scope}.{name}' if scope else name for name in registry.module_dict]
    return names
