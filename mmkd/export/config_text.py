"""Configs as text that is valid Python whatever the names in them are, and written at once.

mmengine's `Config.dump` sorts keys, which decides which member is the first, writes dicts as calls,
which a member named like a keyword breaks, and formats for seconds.
"""

import inspect
from pprint import pformat
from typing import Any

from mmengine.config import Config


def config_text(cfg: Config) -> str:
    """Return a config file's text: `name = value` lines of literals, in the config's own order."""
    values = _plain(cfg.to_dict())
    return (
        '\n'.join(
            f'{name} = {pformat(value, width=100, compact=True, sort_dicts=False)}'
            for name, value in values.items()
        )
        + '\n'
    )


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple | set):
        return type(node)(_plain(value) for value in node)
    if inspect.isclass(node) or inspect.isfunction(node):
        return f'{node.__module__}.{node.__qualname__}'
    if isinstance(node, float) and (node != node or node in (float('inf'), -float('inf'))):
        return _Infinite(node)
    return node


class _Infinite(float):
    """A number that has no literal."""

    def __repr__(self) -> str:
        return f"float('{float(self)}')"


class ReadableConfig(Config):
    """A config that is dumped, into files and checkpoints, as `config_text` writes it."""

    @property
    def pretty_text(self) -> str:
        """The config file's text."""
        return config_text(self)


class UnwrittenConfig(Config):
    """A config that a Runner does not dump: its work folder keeps that of the training."""

    def dump(self, file: Any = None) -> str | None:
        """Return the text where no file is named; write nothing."""
        return super().dump() if file is None else None


def unwritten(cfg: Config) -> UnwrittenConfig:
    """Return the same config for a Runner that evaluates, and leaves the training's file alone."""
    return UnwrittenConfig(cfg._cfg_dict, cfg_text=cfg.text, filename=cfg.filename)


def readable(cfg: Config) -> ReadableConfig:
    """Return the same config, to be dumped as `config_text` writes it."""
    return ReadableConfig(cfg._cfg_dict, cfg_text=cfg.text, filename=cfg.filename)
