import inspect

import torch
from torch import nn

from mmkd.registry import MODELS, SCHEDULES
from mmkd.schedules import Constant
from mmkd.utils.checks import build_checked, check_arguments, check_number, choose
from mmkd.utils.errors import ConfigError

from .tap import describe


class Link:
    """One directed edge `source -> target` along which the source's knowledge reaches the target.

    Args:
        source (str): The member that knowledge is read from. It gets no gradient (see `detach`).
        target (str): The member that learns.
        tap (str): The tap on both sides. Default: `prediction`.
        source_tap, target_tap (str, optional): Taps that differ between the sides.
        loss (dict, optional): Config of the loss. Default: the task's own for the standard taps.
        connector (dict | list[dict] | str | None): Config of the module on the target's side that makes the taps comparable,
            or a chain of several, each built for what the one before gives; `auto` makes a `ConvConnector` where channels
            differ, a resize where only sizes do, else none. Default: `auto`.
        source_connector (dict | list[dict] | None): The same on the source's detached value. It belongs to the link: trained
            with the target's optimiser, left behind at export. Default: None.
        weight (float): Factor of the loss terms; terms that a connector adds of its own keep weight 1. Default: 1.
        schedule (dict, optional): Factor over training progress. Default: constant 1.
        detach (bool): Cut the source's side out of the graph. Default: True.
        name (str): Part of the term's key `target/loss_<name>[source:tap]`; a loss that gives a dict of scalars and a connector
            with `adds_terms` make `target/loss_<name>_<key>[source:tap]`. Default: `kd`.
    """

    def __init__(
        self,
        source,
        target,
        tap='prediction',
        source_tap=None,
        target_tap=None,
        loss=None,
        connector='auto',
        source_connector=None,
        weight=1.0,
        schedule=None,
        detach=True,
        name='kd',
    ):
        self.source, self.target = source, target
        self.source_tap, self.target_tap = source_tap or tap, target_tap or tap
        self.loss_cfg, self.connector_cfg, self.source_connector_cfg = (
            loss,
            connector,
            source_connector,
        )
        self.weight, self.schedule_cfg, self.detach, self.name = weight, schedule, detach, name

    @classmethod
    def from_config(cls, cfg, key):
        """Build from a config's dict, checking its keys."""
        if not isinstance(cfg, dict):
            raise ConfigError(f'{key}: expected a dict with `source` and `target`, got {cfg!r}')
        check_arguments(cls.__init__, cfg, key)
        link = cls(**cfg)
        link.key = key
        if link.source == link.target:
            raise ConfigError(f'{key}: source and target are both {link.source!r}')
        check_number(link.weight, f'{key}.weight')
        for name in ('source', 'target', 'source_tap', 'target_tap', 'name'):
            if not isinstance(getattr(link, name), str):
                raise ConfigError(f'{key}.{name}: expected a name, got {getattr(link, name)!r}')
        if not isinstance(link.detach, bool):
            raise ConfigError(f'{key}.detach: expected True or False, got {link.detach!r}')
        if isinstance(link.connector_cfg, dict) and 'type' not in link.connector_cfg:
            raise ConfigError(
                f"{key}.connector: expected a config with 'type', got {link.connector_cfg!r}"
            )
        link.schedule = (
            Constant()
            if link.schedule_cfg is None
            else build_checked(SCHEDULES, link.schedule_cfg, f'{key}.schedule')
        )
        return link

    @property
    def place(self):
        """Which members and taps the link joins."""
        return self.source, self.target, self.source_tap, self.target_tap

    @property
    def term(self):
        """The key of the link's term among the losses, where its loss gives one."""
        return self.term_of('')

    def term_of(self, key):
        """The key of one of the link's terms among the losses."""
        name = f'{self.name}_{key}' if key else self.name
        return f'{self.target}/loss_{name}[{self.source}:{self.source_tap}]'

    def weight_at(self, progress):
        """The term's factor at `progress` in [0, 1]."""
        return self.weight * self.schedule(progress)

    def is_over(self, progress):
        """Whether the factor is 0 from `progress` on."""
        return self.weight == 0 or self.schedule.is_over(progress)

    def build(self, task, source, target, generator_seed):
        """Build loss and connectors for the taps' values `source` and `target` of a probe, and try them.

        Returns:
            nn.Module: `loss`, `connectors` and `source_connectors` (one a level), trained with the target. `terms` of the link
            then holds the keys of its terms.

        Raises:
            ConfigError: If the two sides cannot be compared; the message names both.
        """
        sides = f'{self.target}.{self.target_tap} {describe(target)} <- {self.source}.{self.source_tap} {describe(source)}'
        loss_cfg = self.loss_cfg or task.default_loss(self.source_tap)
        if loss_cfg is None:
            raise ConfigError(
                f'{self.key}.loss: must be given for the tap {self.source_tap!r}; it has no default'
            )
        if isinstance(target, list) != isinstance(source, list) or (
            isinstance(target, list) and len(target) != len(source)
        ):
            raise ConfigError(
                f'{self.key}: the two sides have different numbers of levels: {sides}'
            )
        module = nn.Module()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(generator_seed)
            module.loss = build_checked(MODELS, loss_cfg, f'{self.key}.loss')
            self.takes_mask = 'mask' in inspect.signature(module.loss.forward).parameters
            module.connectors, module.source_connectors = nn.ModuleList(), nn.ModuleList()
            for t, s in zip(*map(_levels, (target, source))):
                connector, s = self._build_chain(
                    'source_connector', self.source_connector_cfg, s, t, sides
                )
                module.source_connectors.append(connector)
                cfg = (
                    self._automatic(module.loss, t, s)
                    if self.connector_cfg == 'auto'
                    else self.connector_cfg
                )
                module.connectors.append(self._build_chain('connector', cfg, t, s, sides)[0])
        with torch.no_grad():
            module.eval()
            try:
                values = self.compute(module, target, source)
            except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
                raise ConfigError(
                    f'{self.key}: the loss cannot compare {sides}: {error}'
                ) from error
            module.train()
        if not values:
            raise ConfigError(f'{self.key}.loss: {loss_cfg} gives no term')
        for value in values.values():
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                raise ConfigError(
                    f'{self.key}.loss: {loss_cfg} gives {describe(value)}, expected a scalar, or a dict of scalars'
                )
        self.terms = list(values)
        return module

    def _automatic(self, loss, target, source):
        """The config that `connector='auto'` stands for."""
        tensors = all(isinstance(v, torch.Tensor) for v in (target, source))
        if (
            not tensors
            or target.dim() != source.dim()
            or target.dim() not in (2, 4)
            or target.shape == source.shape
        ):
            return None
        if target.shape[1] == source.shape[1]:
            return 'ResizeConnector'
        if self.source_tap == 'prediction' or getattr(loss, 'any_channels', False):
            return None  # other classes: for the loss to refuse
        return 'ConvConnector'

    def _build_chain(self, side, cfgs, value, like, sides):
        """Build the connectors `cfgs` for `value`, each for what the one before gives; return them and what the last gives."""
        chain = []
        for cfg in cfgs if isinstance(cfgs, (list, tuple)) else [] if cfgs is None else [cfgs]:
            key = f'{self.key}.{side}' + (
                f'[{len(chain)}]' if isinstance(cfgs, (list, tuple)) else ''
            )
            chain.append(self._build_connector(key, cfg, value, like, sides))
            with torch.no_grad():
                try:
                    value, _ = _through(chain[-1].eval(), value, like)
                except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
                    raise ConfigError(
                        f'{key}: {cfg} cannot take {describe(value)}: {error}: {sides}'
                    ) from error
        return (
            nn.Identity() if not chain else chain[0] if len(chain) == 1 else nn.ModuleList(chain)
        ), value

    def _build_connector(self, key, cfg, value, like, sides):
        cfg = dict(type=cfg) if isinstance(cfg, str) else cfg
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise ConfigError(f"{key}: expected a config with 'type', got {cfg!r}")
        cfg = dict(cfg)
        dims = {v.dim() if isinstance(v, torch.Tensor) else None for v in (value, like)}
        if dims not in ({4}, {2}):
            raise ConfigError(
                f'{key}: {cfg["type"]} needs maps (N, C, H, W), or vectors (N, C), on both sides: {sides}'
            )
        cls = MODELS.get(cfg['type']) or choose(cfg['type'], MODELS.module_dict, f'{key}.type')
        given = {}
        if getattr(cls, 'needs_channels', False):
            known = dict(in_channels=value.shape[1], out_channels=like.shape[1])
            given = {
                name: known[name] for name in known if name in inspect.signature(cls).parameters
            }
            for name, channels in given.items():
                if cfg.pop(name, channels) != channels:
                    raise ConfigError(f'{key}.{name}: expected {channels}: {sides}')
        return build_checked(MODELS, cfg, key, **given)

    def compute(self, module, target, source, mask=None, weight=1.0):
        """The link's terms: the mean over levels where there are several.

        Args:
            mask (Tensor, optional): Which positions count (`Task.valid_mask`), for losses that take one.
            weight (float): Factor of the loss's terms, not of those that connectors add.

        Returns:
            dict[str, Tensor]: Scalars by their keys among the losses.
        """
        sums, levels = {}, _levels(target)
        options = dict(mask=mask) if mask is not None and self.takes_mask else {}
        for connector, source_connector, t, s in zip(
            module.connectors, module.source_connectors, levels, _levels(source)
        ):
            s, own = _through(source_connector, s, t)
            t, added = _through(connector, t, s)
            value = module.loss(t, s, **options)
            value = value if isinstance(value, dict) else {'': value}
            for key, term in [
                *((k, v * weight) for k, v in value.items()),
                *own.items(),
                *added.items(),
            ]:
                sums.setdefault(key, []).append(term)
        return {self.term_of(key): sum(terms) / len(levels) for key, terms in sums.items()}


def _through(connector, value, like):
    """Take a value through a connector or a chain of them; return what comes out and the terms (dict) that they add."""
    terms = {}
    for one in connector if isinstance(connector, nn.ModuleList) else [connector]:
        if isinstance(one, nn.Identity):
            continue
        value = one(value, like)
        if getattr(one, 'adds_terms', False):
            value, added = value
            terms.update(added)
    return value, terms


def _levels(value):
    return value if isinstance(value, list) else [value]
