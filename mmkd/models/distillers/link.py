import inspect

import torch
from torch import nn

from mmkd.engine.schedules import Constant
from mmkd.registry import MODELS, SCHEDULES
from mmkd.utils.checks import build_checked, check_arguments, check_number, choose

from .tap import describe


class Link:
    """One directed edge `source -> target` along which the source's knowledge reaches the target.

    Args:
        source (str): The member that knowledge is read from. It gets no gradient (see `detach`).
        target (str): The member that learns.
        tap (str): The tap on both sides. Default: `prediction`.
        source_tap, target_tap (str, optional): Taps that differ between the sides.
        loss (dict, optional): Config of the loss. Default: the task's own for the standard taps.
        connector (dict | str | None): Config of the module on the target's side that makes the taps comparable; `auto`
            makes a `ConvConnector` where channels differ, a resize where only sizes do, else none. Default: `auto`.
        weight (float): Factor of the loss term. Default: 1.
        schedule (dict, optional): Factor over training progress. Default: constant 1.
        detach (bool): Cut the source's side out of the graph. Default: True.
        name (str): Part of the term's key `target/loss_<name>[source:tap]`. Default: `kd`.
    """

    def __init__(self, source, target, tap='prediction', source_tap=None, target_tap=None, loss=None, connector='auto',
                 weight=1.0, schedule=None, detach=True, name='kd'):
        self.source, self.target = source, target
        self.source_tap, self.target_tap = source_tap or tap, target_tap or tap
        self.loss_cfg, self.connector_cfg = loss, connector
        self.weight, self.schedule_cfg, self.detach, self.name = weight, schedule, detach, name

    @classmethod
    def from_config(cls, cfg, key):
        """Build from a config's dict, checking its keys."""
        if not isinstance(cfg, dict):
            raise ValueError(f'{key}: expected a dict with `source` and `target`, got {cfg!r}')
        check_arguments(cls.__init__, cfg, key)
        link = cls(**cfg)
        link.key = key
        if link.source == link.target:
            raise ValueError(f'{key}: source and target are both {link.source!r}')
        check_number(link.weight, f'{key}.weight')
        for name in ('source', 'target', 'source_tap', 'target_tap', 'name'):
            if not isinstance(getattr(link, name), str):
                raise ValueError(f'{key}.{name}: expected a name, got {getattr(link, name)!r}')
        if not isinstance(link.detach, bool):
            raise ValueError(f'{key}.detach: expected True or False, got {link.detach!r}')
        if isinstance(link.connector_cfg, dict) and 'type' not in link.connector_cfg:
            raise ValueError(f"{key}.connector: expected a config with 'type', got {link.connector_cfg!r}")
        link.schedule = Constant() if link.schedule_cfg is None else build_checked(
            SCHEDULES, link.schedule_cfg, f'{key}.schedule')
        return link

    @property
    def term(self):
        """The key of the link's term among the losses."""
        return f'{self.target}/loss_{self.name}[{self.source}:{self.source_tap}]'

    def weight_at(self, progress):
        """The term's factor at `progress` in [0, 1]."""
        return self.weight * self.schedule(progress)

    def is_over(self, progress):
        """Whether the factor is 0 from `progress` on."""
        return self.weight == 0 or self.schedule.is_over(progress)

    def build(self, task, source, target, generator_seed):
        """Build loss and connectors for the taps' values `source` and `target` of a probe, and try them.

        Returns:
            nn.Module: `loss` and `connectors` (one a level), of which the latter belong to the target's optimiser.

        Raises:
            ValueError: If the two sides cannot be compared; the message names both.
        """
        sides = f'{self.target}.{self.target_tap} {describe(target)} <- {self.source}.{self.source_tap} {describe(source)}'
        loss_cfg = self.loss_cfg or task.default_loss(self.source_tap)
        if loss_cfg is None:
            raise ValueError(f'{self.key}.loss: must be given for the tap {self.source_tap!r}; it has no default')
        if isinstance(target, list) != isinstance(source, list) or (isinstance(target, list)
                                                                     and len(target) != len(source)):
            raise ValueError(f'{self.key}: the two sides have different numbers of levels: {sides}')
        module = nn.Module()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(generator_seed)
            module.loss = build_checked(MODELS, loss_cfg, f'{self.key}.loss')
            self.takes_mask = 'mask' in inspect.signature(module.loss.forward).parameters
            module.connectors = nn.ModuleList(
                self._connector(t, s, sides) for t, s in zip(*map(_levels, (target, source))))
        with torch.no_grad():
            module.eval()
            try:
                value = self.compute(module, target, source)
            except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
                raise ValueError(f'{self.key}: the loss cannot compare {sides}: {error}') from error
            module.train()
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise ValueError(f'{self.key}.loss: {loss_cfg} gives {describe(value)}, expected a scalar')
        return module

    def _connector(self, target, source, sides):
        cfg = self.connector_cfg
        maps = all(isinstance(v, torch.Tensor) and v.dim() == 4 for v in (target, source))
        if cfg == 'auto':
            vectors = all(isinstance(v, torch.Tensor) and v.dim() == 2 for v in (target, source))
            if not (maps or vectors) or target.shape == source.shape:
                return nn.Identity()
            cfg = 'ConvConnector' if target.shape[1] != source.shape[1] else 'ResizeConnector'
            if cfg == 'ConvConnector' and self.source_tap == 'prediction':
                return nn.Identity()  # other classes: for the loss to refuse
        elif cfg is None:
            return nn.Identity()
        cfg = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
        if not (maps or all(isinstance(v, torch.Tensor) and v.dim() == 2 for v in (target, source))):
            raise ValueError(f'{self.key}.connector: {cfg["type"]} needs maps (N, C, H, W), or vectors (N, C), on both sides: '
                             f'{sides}')
        cls = MODELS.get(cfg['type']) or choose(cfg['type'], MODELS.module_dict, f'{self.key}.connector.type')
        given = {}
        if getattr(cls, 'needs_channels', False):
            given = dict(in_channels=target.shape[1], out_channels=source.shape[1])
            for name, channels in given.items():
                if cfg.pop(name, channels) != channels:
                    raise ValueError(f'{self.key}.connector.{name}: expected {channels}: {sides}')
        return build_checked(MODELS, cfg, f'{self.key}.connector', **given)

    def compute(self, module, target, source, mask=None):
        """Loss of the target's tap against the source's: the mean over levels where there are several.

        Args:
            mask (Tensor, optional): Which positions count (`Task.valid_mask`), for losses that take one.
        """
        values = []
        options = dict(mask=mask) if mask is not None and self.takes_mask else {}
        for connector, t, s in zip(module.connectors, _levels(target), _levels(source)):
            if not isinstance(connector, nn.Identity):
                t = connector(t, s)
            values.append(module.loss(t, s, **options))
        return sum(values) / len(values)


def _levels(value):
    return value if isinstance(value, list) else [value]
