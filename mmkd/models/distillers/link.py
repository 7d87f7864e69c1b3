import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

from mmkd.models.combiners import Combiner
from mmkd.models.connectors.base import WithTerms
from mmkd.models.weights import NegativeTransferGuard, WeightRule
from mmkd.models.weights.base import GradientProducts, Measurement, products_of, tap_gradient
from mmkd.registry import MODELS
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

from .chain import build_chain, class_of, connector_names, known_channels, parts_of, through
from .context import LinkContext, context_names
from .levels import levels_of, paired_levels
from .link_spec import LinkSpec
from .link_trial import try_link
from .tap import TapValue, describe

# Below it a loss is negative, and not by rounding.
LEAST_LOSS = -1e-4


class LinkTerms(NamedTuple):
    """A link's scalars by their keys among the losses.

    `losses` are the loss's, still without the link's factor; `extra` those that connectors add,
    whose factor is 1.
    """

    losses: dict[str, Tensor]
    extra: dict[str, Tensor]


class Link(nn.Module):
    """One directed edge along which a source's knowledge reaches the target.

    Its parameters (connectors, a loss's or a combiner's own) are trained with the target's
    optimizer and left behind at export.

    Args:
        spec: What the config says.
        task: The members' task.
        target: Value of the target's tap on a probe image.
        sources: Values of the sources' taps, one per source.
        seed: Start of the random stream that initial weights are drawn from.
        image_metas: What is known of the probe image.

    Raises:
        ConfigError: If the two sides cannot be compared; the message names both.
    """

    def __init__(
        self,
        spec: LinkSpec,
        task: Any,
        target: TapValue,
        sources: list[TapValue],
        seed: int,
        image_metas: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.key = spec, spec.key
        self.source, self.target = spec.sources, spec.target
        self.source_tap, self.target_tap = spec.source_tap, spec.target_tap
        self.source_is_worse = False
        self.sides = (
            f'{spec.target}.{spec.target_tap} {describe(target)} <- '
            f'{spec.label}.{spec.source_tap} {", ".join(map(describe, sources))}'
        )
        loss_cfg = spec.loss or task.default_loss(spec.source_tap.split('[')[0])
        if loss_cfg is None:
            raise ConfigError(
                f'{spec.key}.loss: must be given for the tap {spec.source_tap!r}; it has no default'
            )
        in_order = spec.connector != 'auto'  # written for these levels
        self.rows = paired_levels(target, sources, spec.key, self.sides, in_order)
        if len(self.rows) < max(len(levels_of(value)) for value in (target, *sources)):
            print_log(f'{spec.key}: levels of the same stride: {self._pairs()}', logger='current')
        self.forms = [_form(value) for value in (target, *sources)]
        probe = LinkContext(
            task=task,
            target_tap=spec.target_tap,
            source_tap=spec.source_tap,
            image_metas=image_metas,
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            key, rows = f'{spec.key}.loss', self._paired(target, sources)
            first = (rows[0][0], rows[0][1][0])
            given = known_channels(key, loss_cfg, *first)
            self.loss: nn.Module = build_checked(MODELS, loss_cfg, key, **given)
            self._loss_names = self._names(self.loss, key)
            self.connectors, self.source_connectors = nn.ModuleList(), nn.ModuleList()
            self.combiner: nn.Module | None = None
            self._combiner_names: tuple[str, ...] = ()
            if spec.combine is not None:
                key = f'{spec.key}.combine'
                self._check_combined(key, rows)
                given = known_channels(key, spec.combine, *first)
                self.combiner = build_checked(MODELS, spec.combine, key, **given)
                self._combiner_names = self._names(self.combiner, key)
            self._fit_form(task)
            for t, s in rows:
                self._build_level(t, s, probe)
        self.rule: WeightRule | None = None
        if isinstance(spec.weight, Mapping):
            self.rule = build_checked(MODELS, dict(spec.weight), f'{spec.key}.weight')
            if not isinstance(self.rule, WeightRule):
                raise ConfigError(
                    f'{spec.key}.weight: expected a number or a WeightRule, got {spec.weight}'
                )
        self.guard: NegativeTransferGuard | None = None
        if spec.guard is not None:
            cfg = spec.guard if isinstance(spec.guard, Mapping) else dict(mode=spec.guard)
            cfg = dict(dict(type='NegativeTransferGuard'), **cfg)
            self.guard = build_checked(MODELS, cfg, f'{spec.key}.guard')
            self._check_guard(target)
        if (self.rule or self.guard) and not getattr(self.loss, 'through_tap', True):
            raise ConfigError(
                f'{spec.key}: the gradient of {loss_cfg} is not at the tap, so no weight rule or '
                'guard can measure it there; what works: a number as weight and no guard'
                + (", or queries='matched'" if hasattr(self.loss, 'queries') else '')
            )
        self.terms = try_link(self, target, sources, probe)
        self.context_names = {*self._loss_names, *self._combiner_names}
        for chain in (*self.connectors, *self.source_connectors):
            for connector in parts_of(chain):
                self.context_names.update(connector_names(connector))

    # ---------------------------------------------------------------- building

    def _paired(self, target: TapValue, sources: list[TapValue]) -> list[tuple[Any, list[Any]]]:
        """Return each level of the target that learns, with the sources' levels it learns from."""
        values = [levels_of(value) for value in (target, *sources)]
        rows = [[levels[i] for levels, i in zip(values, row)] for row in self.rows]
        return [(own, others) for own, *others in rows]

    def _pairs(self) -> str:
        spec = self.spec
        return ', '.join(
            f'{spec.target}.{spec.target_tap}[{own}] <- '
            + '+'.join(f'{n}.{spec.source_tap}[{i}]' for n, i in zip(spec.sources, others))
            for own, *others in self.rows
        )

    def _fit_form(self, task: Any) -> None:
        """Let 'auto' mean independent classes where the task's are (several labels an image)."""
        own = task.default_loss(self.source_tap.split('[')[0]) or {}
        for part in (self.loss, self.combiner) if own.get('mode') == 'sigmoid' else ():
            for name in ('mode', 'activation'):
                if getattr(part, name, None) == 'auto':
                    setattr(part, name, 'sigmoid')

    def _names(self, module: nn.Module, key: str) -> tuple[str, ...]:
        """Return what a loss or combiner asks of the context."""
        names = context_names(module.forward, 2, key)
        parameters = inspect.signature(module.forward).parameters
        required = 'data_samples' in names and (
            parameters['data_samples'].default is inspect.Parameter.empty
        )
        if required and self.spec.on != 'labeled':
            raise ConfigError(
                f'{key}: {type(module).__name__} needs labels (data_samples), but the link acts '
                f'on={self.spec.on!r}'
            )
        return names

    def _check_guard(self, target: TapValue) -> None:
        assert self.guard is not None
        if 'labeled' not in self.spec.batches:
            raise ConfigError(
                f'{self.key}.guard: the gradients of a link and of the task are compared on the '
                f"same images, so the link must act on='labeled' or 'both', got {self.spec.on!r}"
            )
        if self.guard.mode == 'project' and self.spec.on != 'labeled':
            raise ConfigError(
                f"{self.key}.guard: 'project' bends the gradient on labeled images alone, so the "
                f"link must act on='labeled', got {self.spec.on!r}; use 'mute'"
            )
        plain = all(isinstance(level, Tensor) for level in levels_of(target))
        if self.guard.mode == 'project' and not plain:
            raise ConfigError(
                f"{self.key}.guard: 'project' is for taps of tensors, got {self.sides}; use 'mute'"
            )

    def _build_level(self, target: Any, sources: list[Any], probe: LinkContext) -> None:
        try:
            source, _ = self._combined(target, sources, probe)
        except ConfigError as error:
            raise ConfigError(f'{self.key}.{error}') from error
        cfg, on_source = self.spec.connector, self.spec.source_connector
        if isinstance(source, list) and (on_source is not None or cfg not in ('auto', None)):
            raise ConfigError(
                f'{self.key}.connector: several sources need `combine` before connectors'
            )
        chain, source = build_chain(
            f'{self.key}.source_connector', on_source, source, target, probe, self.sides
        )
        self.source_connectors.append(chain)
        cfg = self._automatic(target, source) if cfg == 'auto' else cfg
        chain, _ = build_chain(f'{self.key}.connector', cfg, target, source, probe, self.sides)
        self.connectors.append(chain)

    def _automatic(self, target: Any, source: Any) -> str | None:
        """Return the config that `connector='auto'` stands for."""
        if not all(isinstance(v, Tensor) for v in (target, source)):
            return None
        if target.dim() != source.dim() or target.dim() not in (2, 4):
            return None
        if target.shape == source.shape:
            return None
        if target.shape[1] == source.shape[1]:
            return 'ResizeConnector'
        if self.spec.source_tap == 'prediction' or getattr(self.loss, 'any_channels', False):
            return None  # other classes: for the loss to refuse
        return 'ConvConnector'

    def _check_combined(self, key: str, rows: list[tuple[Any, list[Any]]]) -> None:
        cls = class_of(key, self.spec.combine)
        for target, sources in rows:
            try:
                if cls is not None and issubclass(cls, Combiner):
                    cls.check_values(sources, target)
            except ConfigError as error:
                raise ConfigError(f'{key}: {error}') from error

    def check_signs(self, losses: Mapping[str, Tensor], iteration: int | None = None) -> None:
        """Raise a ConfigError if one of the link's losses, at factor 1, is below 0.

        A loss whose class says `may_be_negative = True` is not checked.
        """
        if getattr(self.loss, 'may_be_negative', False):
            return
        below = {term: v.item() for term, v in losses.items() if v.item() < LEAST_LOSS}
        if below:
            when = '' if iteration is None else f' at iteration {iteration + 1}'
            raise ConfigError(
                f'{self.key}.loss: {type(self.loss).__name__} is below 0{when}: {below}; expected '
                'a loss that is 0 where both sides agree (one that is bounded otherwise says '
                '`may_be_negative = True` in its class)'
            )

    def check_learns(self, found: LinkTerms) -> None:
        """Raise a ConfigError if the target cannot learn from terms whose value it has a part in.

        Constants of 0 are what a loss may give where nothing is to be learned, as below a
        threshold.

        Args:
            found: Terms of a target whose value needs a gradient.
        """
        if not self.spec.detach or any(v.requires_grad for terms in found for v in terms.values()):
            return
        if any(value.isfinite() and value != 0 for value in found.losses.values()):
            raise ConfigError(
                f'{self.key}.loss: {type(self.loss).__name__} has no gradient, so that '
                f'{self.target!r} would learn nothing from it: expected one to the target (is it '
                'detached, or computed without autograd?)'
            )

    # ---------------------------------------------------------------- the training step

    def terms_on(self, batch: str) -> list[str]:
        """Return the keys of the link's terms on the `labeled` or the `unlabeled` batch."""
        return [self.spec.on_batch(term, batch) for term in self.terms]

    def base_factor(self, progress: float) -> float:
        """Return what weight (1 for a rule that acts) and schedule make; 0: not run at all.

        Args:
            progress: Share of the training done.

        Raises:
            ConfigError: If the schedule does not fit into the training's iterations.
        """
        if self.source_is_worse:
            return 0.0
        weight = self.spec.weight if self.rule is None else float(self.rule.acts)
        max_iters = MessageHub.get_current_instance().get_info('max_iters')
        try:
            return weight * self.spec.schedule(progress, max_iters)
        except ConfigError as error:
            raise ConfigError(f'{self.key}.schedule: {error}') from error

    def factor(self, progress: float) -> float:
        """Return the factor of the link's losses: weight x schedule x guard.

        Raises:
            ConfigError: For a factor below 0: the target would unlearn.
        """
        factor = self.base_factor(progress)
        for part, key in ((self.rule, 'weight'), (self.guard, 'guard')):
            if part is not None:
                own = part.factor()
                if own < 0:
                    raise ConfigError(
                        f'{self.key}.{key}: expected a factor >= 0, {type(part).__name__} gives '
                        f'{own}'
                    )
                factor *= own
        return factor

    def share(self, progress: float) -> float:
        """Return the share of the task's gradient asked for; 0 without a `GradientShare`."""
        heard = 1.0 if self.guard is None else self.guard.factor()
        return float(getattr(self.rule, 'share', 0.0)) * self.base_factor(progress) * heard

    def measures(self, iteration: int) -> bool:
        """Return whether gradients are to be measured in this iteration."""
        return any(part is not None and part.due(iteration) for part in (self.rule, self.guard))

    def compares(self, iteration: int) -> bool:
        """Return whether the step needs the task's gradient at the target's tap."""
        return self.projects or self.measures(iteration)

    @property
    def projects(self) -> bool:
        """Whether the link's gradient is bent away from opposing the task's."""
        return self.guard is not None and self.guard.mode == 'project'

    def forward(self, target: TapValue, sources: list[TapValue], context: LinkContext) -> LinkTerms:
        """Compute the link's terms: the mean over levels where there are several.

        Raises:
            ConfigError: If a tap gives other channels or levels than in eval mode, for which the
                link was built.
        """
        forms = [_form(value) for value in (target, *sources)]
        if forms != self.forms:
            now = ' <- '.join(map(describe, (target, *sources)))
            raise ConfigError(
                f'{self.key}: the taps give other channels or levels in training, {now}, than in '
                f'eval mode, {self.sides}: tap a module whose output is alike in both'
            )
        losses: dict[str, list[Tensor]] = {}
        extra: dict[str, list[Tensor]] = {}
        rows = zip(self.connectors, self.source_connectors, self._paired(target, sources))
        for connector, source_connector, (t, level_sources) in rows:
            s, of_combiner = self._combined(t, level_sources, context)
            s, own = through(source_connector, s, t, context)
            t, added = through(connector, t, s, context)
            value = self.loss(t, s, **context.named(self._loss_names))
            for key, term in (value if isinstance(value, dict) else {'': value}).items():
                losses.setdefault(key, []).append(term)
            for key, term in [*of_combiner.items(), *own.items(), *added.items()]:
                extra.setdefault(key, []).append(term)
        return LinkTerms(
            {self.spec.term_of(k): torch.stack(v).mean() for k, v in losses.items()},
            {self.spec.term_of(k): torch.stack(v).mean() for k, v in extra.items()},
        )

    def summed_weights(
        self, target: TapValue, sources: list[TapValue], context: LinkContext
    ) -> list[Tensor]:
        """Return what the loss sums over all ranks, see `DistillationLoss.summed_weights`.

        Nothing where the source is combined or converted first.
        """
        if (
            self.combiner is not None
            or len(sources) > 1
            or any(map(parts_of, self.source_connectors))
        ):
            return []
        summed = getattr(self.loss, 'summed_weights', None)
        if summed is None:
            return []
        mask = context.mask if 'mask' in self._loss_names else None
        rows = self._paired(target, sources)
        return [weight for _, level in rows for weight in summed(level[0], mask)]

    def _combined(
        self, target: Any, sources: list[Any], context: LinkContext
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return what the sources make together and the terms that the combiner adds."""
        if self.combiner is None:
            return sources[0] if len(sources) == 1 else sources, {}
        value = self.combiner(sources, target, **context.named(self._combiner_names))
        return value if isinstance(value, WithTerms) else (value, {})

    def products(
        self,
        loss: Tensor,
        raw: Sequence[Tensor],
        task: Sequence[Tensor],
        images: tuple[int, int] | None = None,
    ) -> GradientProducts:
        """Compare the link's gradient at the target's tap with the task's, on this rank.

        Args:
            loss: Sum of the link's losses at factor 1.
            raw: The tapped tensors in the forward pass that the link used.
            task: The task's gradient at the tap, in the labeled forward pass.
            images: See `products_of`.
        """
        return products_of(task, tap_gradient(loss, raw), images, loss.device)

    def fit(self, found: Measurement) -> None:
        """Fit rule and guard to a measurement."""
        for part in (self.rule, self.guard):
            if part is not None:
                part.update(found)


def _form(value: TapValue) -> list[tuple[int, int] | None]:
    """Return dimensions and channels of each level that is a tensor: what a link is built for."""
    return [
        (x.dim(), x.shape[-1 if x.dim() == 3 else 1])
        if isinstance(x, Tensor) and x.dim() > 1
        else None
        for x in levels_of(value)
    ]
