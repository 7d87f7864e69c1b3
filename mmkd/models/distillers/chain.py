"""Connectors of one side of a link: a chain, each built for what the one before gives."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmkd.models.connectors.base import WithTerms
from mmkd.registry import MODELS
from mmkd.utils.checks import build_checked, choose
from mmkd.utils.errors import ConfigError

from .context import UNFIT, LinkContext, context_names
from .tap import describe


def build_chain(
    key: str, cfgs: Any, value: Any, like: Any, probe: LinkContext, sides: str
) -> tuple[nn.Module, Any]:
    """Build the connectors of one side.

    Args:
        key: Where they stand in the config, for messages.
        cfgs: Config of one, a list of several, or None.
        value: What the side gives on a probe image.
        like: What the other side gives.
        probe: Context of the probe.
        sides: The two sides in words, for messages.

    Returns:
        The connectors (the identity for none), and what the last one gives.

    Raises:
        ConfigError: For a connector that cannot be built or cannot take the value.
    """
    chain: list[nn.Module] = []
    several = isinstance(cfgs, (list, tuple))
    for cfg in cfgs if several else [] if cfgs is None else [cfgs]:
        own = f'{key}[{len(chain)}]' if several else key
        chain.append(_build_connector(own, cfg, value, like, sides))
        try:
            value, _ = through(chain[-1].eval(), value, like, probe)
        except UNFIT as error:
            raise ConfigError(
                f'{own}: {cfg} cannot take {describe(value)}: {error}: {sides}'
            ) from error
    if len(chain) == 1:
        return chain[0], value
    return nn.ModuleList(chain) if chain else nn.Identity(), value


def _build_connector(key: str, cfg: Any, value: Any, like: Any, sides: str) -> nn.Module:
    cfg = dict(type=cfg) if isinstance(cfg, str) else cfg
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise ConfigError(f"{key}: expected a config with 'type', got {cfg!r}")
    dims = {v.dim() if isinstance(v, Tensor) else None for v in (value, like)}
    if dims not in ({4}, {2}):
        raise ConfigError(
            f'{key}: {cfg["type"]} needs maps (N, C, H, W), or vectors (N, C), on both sides: '
            f'{sides}'
        )
    cfg = dict(cfg)
    given = known_channels(key, cfg, value, like)
    for name, channels in given.items():
        if cfg.pop(name, channels) != channels:
            raise ConfigError(f'{key}.{name}: expected {channels}: {sides}')
    connector: nn.Module = build_checked(MODELS, cfg, key, **given)
    try:
        connector_names(connector)
    except ConfigError as error:
        raise ConfigError(f'{key}: {error}') from error
    return connector


def class_of(key: str, cfg: Any) -> Any:
    """Return the class that a config builds; None without a type, for build_checked to refuse."""
    kind = cfg.get('type') if isinstance(cfg, Mapping) else cfg
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if cls is None and kind is not None:
        choose(kind, MODELS.module_dict, f'{key}.type')
    return cls


def known_channels(key: str, cfg: Any, value: Any, like: Any) -> dict[str, int]:
    """Return `in_channels` and `out_channels` as far as the module's constructor names them."""
    cls = class_of(key, cfg)
    if cls is None:
        return {}
    parameters = inspect.signature(cls).parameters
    sides = dict(in_channels=value, out_channels=like)
    return {
        name: side.shape[1]
        for name, side in sides.items()
        if name in parameters and isinstance(side, Tensor)
    }


def through(
    connector: nn.Module, value: Any, like: Any, context: LinkContext
) -> tuple[Any, dict[str, Tensor]]:
    """Take a value through a connector or a chain; return what comes out and the terms added."""
    terms: dict[str, Tensor] = {}
    for one in parts_of(connector):
        value = one(value, like, **context.named(connector_names(one)))
        if isinstance(value, WithTerms):
            terms.update(value.terms)
            value = value.value
    return value, terms


def parts_of(connector: nn.Module) -> list[nn.Module]:
    """Return the connectors of a chain; none for the identity."""
    if isinstance(connector, nn.ModuleList):
        return list(connector)
    return [] if isinstance(connector, nn.Identity) else [connector]


def connector_names(connector: nn.Module) -> tuple[str, ...]:
    """Return which parts of the context a connector asks for."""
    kind = type(connector)
    return context_names(kind.forward, 3, kind.__name__)
