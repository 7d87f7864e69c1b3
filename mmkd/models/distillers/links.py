import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd.models.utils.mask import know_totals
from mmkd.models.weights.base import GradientProducts, Measurement, measure, tap_gradient
from mmkd.tasks.base import Task
from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError

from .batch import Batch, metas_of
from .context import LinkContext
from .link import LEAST_LOSS, Link, LinkTerms
from .link_spec import LinkSpec
from .members import Members, Readings
from .projection import bend, separate
from .tap import Reading, Tap, TapValue, detach, requires_grad

# What networks raise for images of a size that they do not take.
UNFIT_SIZE = (AssertionError, RuntimeError, IndexError, ValueError)


class Links(nn.Module):
    """All links: build them, say what a step needs, compute the terms, contain faults.

    Args:
        specs: What the config says, the preset's links first.
        members: The members' networks; the links' taps are put on them.
        task: Their task.
        probe_sizes: Sides of the empty image that finds the taps' shapes: the first that all
            members accept.
        max_share: The most that the links of one target with a `GradientShare` may make together,
            as a share of the task's gradient; beyond it their shares shrink alike. Default: none.

    Raises:
        ConfigError: For links that name what is not there, or cannot compare their two sides.
    """

    worse: Tensor

    def __init__(
        self,
        specs: Sequence[LinkSpec],
        members: Members,
        task: Task,
        probe_sizes: Sequence[int],
        max_share: float | None = None,
    ) -> None:
        super().__init__()
        self._members = [members]  # in a list: a child of the distiller, not of its links
        self.task, self.max_share = task, max_share
        for spec in specs:
            self._check(spec)
            for name, tap, side in self._ends(spec):
                if (name, tap) not in members.taps:
                    key = f'{spec.key}.{side}_tap'
                    members.taps[name, tap] = Tap(name, tap, members.network(name), task, key)
        values, image_metas = self._probe(probe_sizes)
        for index, spec in enumerate(specs):
            sources = [values[name, spec.source_tap] for name in spec.sources]
            target = values[spec.target, spec.target_tap]
            seed = members.specs[spec.target].seed or 0
            seed = (seed + 1000 + index) % 2**32
            link = Link(spec, task, target, sources, seed, image_metas)
            self._check_fitted_first(link)
            self.add_module(f'{spec.target}_from_{"_".join(spec.sources)}_{index}', link)
        terms = [
            term for link in self for batch in link.spec.batches for term in link.terms_on(batch)
        ]
        for term in terms:
            if terms.count(term) > 1:
                raise ConfigError(
                    f'model.links: two links have the term {term!r}; give one of them a `name`'
                )
        self._check_cap()
        if any(spec.only_if_better is not None for spec in specs):
            self.register_buffer('worse', torch.zeros(len(specs), dtype=torch.bool))

    # ---------------------------------------------------------------- building

    @property
    def members(self) -> Members:
        """The members' networks."""
        return self._members[0]

    @staticmethod
    def _ends(spec: LinkSpec) -> Iterator[tuple[str, str, str]]:
        for name in spec.sources:
            yield name, spec.source_tap, 'source'
        yield spec.target, spec.target_tap, 'target'

    def _check_cap(self) -> None:
        if self.max_share is None:
            return
        check_number(self.max_share, 'model.max_share', 1e-6)
        if not any(hasattr(link.rule, 'share') for link in self):
            raise ConfigError(
                f'model.max_share: {self.max_share} caps links whose weight is a GradientShare; '
                "there is none: give links weight=dict(type='GradientShare')"
            )

    def _check(self, spec: LinkSpec) -> None:
        specs = self.members.specs
        for name, _, side in self._ends(spec):
            choose(name, specs, f'{spec.key}.{side}')
        training = specs[spec.target].training
        if training != 'online':
            raise ConfigError(
                f'{spec.key}.target: {spec.target!r} is {training} and learns nothing; targets are '
                'online members'
            )
        for name in spec.sources:
            if not spec.detach and specs[name].training != 'online':
                raise ConfigError(
                    f'{spec.key}.detach: False has no effect on {name!r}, which is not trained'
                )

    def _check_fitted_first(self, link: Link) -> None:
        frozen = all(self.members.specs[name].training == 'frozen' for name in link.source)
        for connector in link.source_connectors.modules():
            if getattr(connector, 'fits_first', False) and not frozen:
                raise ConfigError(
                    f'{link.key}.source_connector: {type(connector).__name__} is trained before '
                    f'the training, on a frozen source, but {link.spec.label!r} is not frozen: '
                    'set joint=True'
                )

    def _probe(
        self, sizes: Sequence[int]
    ) -> tuple[dict[tuple[str, str], TapValue], list[dict[str, Any]]]:
        """Read all taps on an empty image, to find their shapes; also return its metas."""
        if not self.members.taps:
            return {}, []
        failures: dict[str, Exception] = {}
        with torch.random.fork_rng(devices=[]):
            for size in sizes:
                image = torch.zeros(1, 3, size, size)
                try:
                    return self._probed(image, failures), metas_of(image, None)
                except ConfigError:
                    raise
                except UNFIT_SIZE:
                    continue  # window attention and position embeddings need their own sizes
        tried = f'{", ".join(map(str, sizes))} pixels a side'
        why = '; '.join(f'{name}: {error}' for name, error in failures.items())
        if len(failures) == 1:
            raise ConfigError(f'model.members.{why} (on an empty image of {tried})')
        raise ConfigError(
            f'model.members: no image of {tried} serves all members that links tap: {why}'
        )

    def _probed(
        self, image: Tensor, failures: dict[str, Exception]
    ) -> dict[tuple[str, str], TapValue]:
        """Read all taps; note the first failure of each member."""
        values: dict[tuple[str, str], TapValue] = {}
        for name in dict.fromkeys(member for member, _ in self.members.taps):
            try:
                # A cache refuses here what it cannot keep.
                values.update(self.read_taps(image, None, [name], cached=True))
            except ConfigError:
                raise
            except UNFIT_SIZE as error:
                failures.setdefault(name, error)
                raise
        return values

    @torch.no_grad()
    def read_taps(
        self,
        inputs: Tensor,
        data_samples: list[Any] | None,
        names: Sequence[str] | None = None,
        cached: bool = False,
    ) -> dict[tuple[str, str], TapValue]:
        """Run each tapped member (those in `names`, if given) once in eval mode, without losses.

        Args:
            inputs: Preprocessed images (N, C, H, W).
            data_samples: One per image.
            names: Members. Default: all that are tapped.
            cached: Whether caches of frozen members are asked and filled, for images that come
                again.

        Returns:
            By (member, tap) what the taps read.
        """
        values = {}
        for name in dict.fromkeys(member for member, _ in self.members.taps):
            if names is not None and name not in names:
                continue
            taps = [tap for member, tap in self.members.taps if member == name]
            readings = self.evaluate(name, inputs, data_samples, taps, cached)
            values.update({place: reading.value for place, reading in readings.items()})
        return values

    def evaluate(
        self,
        name: str,
        inputs: Tensor,
        data_samples: list[Any] | None,
        taps: Sequence[str],
        cached: bool = True,
    ) -> Readings:
        """Run one member in eval mode without gradients and read its taps."""
        network = self.members.network(name)
        mode = network.training
        network.eval()
        try:
            with torch.no_grad():
                return self.members.outputs(self.task, name, inputs, data_samples, taps, cached)
        finally:
            network.train(mode)

    # ---------------------------------------------------------------- the training step

    def __iter__(self) -> Iterator[Link]:
        return (link for link in self.children() if isinstance(link, Link))

    def with_state(self) -> dict[str, str]:
        """Return what each link joins that has weights or buffers, by its name in checkpoints."""
        return {
            name: f'{link.spec.label}:{link.spec.source_tap} -> {link.target}:'
            f'{link.spec.target_tap} ({link.spec.name}, {link.spec.on})'
            for name, link in self.named_children()
            if isinstance(link, Link) and (link.spec.only_if_better or link.state_dict())
        }

    def __len__(self) -> int:
        return len(list(iter(self)))

    def of_target(self, name: str) -> list[Link]:
        """Return the links into the member `name`."""
        return [link for link in self if link.target == name]

    def after_validation(self, metrics: Mapping[str, float]) -> None:
        """Let links with `only_if_better` rest whose sources are not better than their target.

        Args:
            metrics: `member/metric` and its value; greater is better.

        Raises:
            ConfigError: If there is no such metric.
        """
        for index, link in enumerate(self):
            metric = link.spec.only_if_better
            if metric is None:
                continue
            names = [link.target, *link.source]
            for name in names:
                choose(f'{name}/{metric}', sorted(metrics), f'{link.key}.only_if_better')
            values = [float(metrics[f'{name}/{metric}']) for name in names]
            own, *others = (-math.inf if math.isnan(value) else value for value in values)
            worse = not max(others) > own
            if worse != link.source_is_worse:
                print_log(
                    f'{link.key}: {link.spec.label} -> {link.target} '
                    f'{"rests" if worse else "goes on"}: {metric} {max(others):.4f} against '
                    f'{own:.4f}',
                    logger='current',
                )
            link.source_is_worse = worse
            self.worse[index] = worse

    def check_evaluated(self, names: Sequence[str]) -> None:
        """Raise a ConfigError if links with `only_if_better` join members that are not evaluated.

        Args:
            names: The evaluated members.
        """
        for link in self:
            for name in (link.target, *link.source) if link.spec.only_if_better else ():
                if name not in names:
                    raise ConfigError(
                        f'{link.key}.only_if_better: {link.spec.only_if_better} of {name!r} is not '
                        f'measured; expected it in val_cfg.members, which is {list(names)}'
                    )

    def start_anew(self) -> None:
        """Forget what was measured of gradients and members, as a new training does."""
        for link in self:
            link.source_is_worse = False
            for part in (link.rule, link.guard):
                if part is not None:
                    part.forget()
        if 'worse' in self._buffers:
            self.worse.zero_()

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super()._load_from_state_dict(*args, **kwargs)
        worse_links = self.worse.tolist() if 'worse' in self._buffers else []
        for link, worse in zip(self, worse_links):
            link.source_is_worse = worse

    def active(self, progress: float, iteration: int) -> list[Link]:
        """Return the links that take part in a step: a muted one only when it is to measure."""
        return [
            link
            for link in self
            if link.base_factor(progress)
            and (link.guard is None or link.guard.factor() or link.guard.due(iteration))
        ]

    @staticmethod
    def needed(active: Sequence[Link], iteration: int) -> dict[str, dict[str, set[str]]]:
        """Return the taps that a step reads: by view (`labeled`, `weak`, `strong`) and member."""
        needed: dict[str, dict[str, set[str]]] = dict(labeled={}, weak={}, strong={})

        def add(view: str, name: str, tap: str) -> None:
            needed[view].setdefault(name, set()).add(tap)

        for link in active:
            for batch in link.spec.batches:
                labeled = batch == 'labeled'
                for name in link.source:
                    add('labeled' if labeled else link.spec.source_view, name, link.source_tap)
                add('labeled' if labeled else 'strong', link.target, link.target_tap)
            if link.compares(iteration):  # the task's gradient is taken there
                add('labeled', link.target, link.target_tap)
        return needed

    def forward(
        self,
        active: Sequence[Link],
        batches: Mapping[str, Batch],
        task_losses: Mapping[str, Tensor],
        progress: float,
        iteration: int,
        target: str | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms of all links; those of links that are not active are 0.

        Args:
            active: See `active`.
            batches: By name; unlabeled views may be missing where no link needs them.
            task_losses: By target, the sum of its own loss terms; of the targets whose links
                compare gradients.
            progress: Share of the training done.
            iteration: From 0.
            target: Of the links into this member alone. Default: of all.

        Returns:
            Scalars by their keys, and what was measured: `share_...`, `cosine_...`, `factor_...`.
        """
        terms: dict[str, Tensor] = {}
        unscaled: dict[str, Tensor] = {}
        detached: dict[tuple[int, str, str], TapValue] = {}
        gradients: dict[tuple[str, str], list[Tensor]] = {}
        found: dict[Link, dict[str, LinkTerms]] = {}
        products: dict[Link, GradientProducts] = {}
        given = {
            (link, kind): self._given(link, kind, batches, detached, progress)
            for link in active
            for kind in link.spec.batches
        }
        if get_world_size() > 1:
            rows = [link.summed_weights(*values) for (link, _), values in given.items()]
            know_totals([weight for row in rows for weight in row])
        for link in active:
            compares = torch.is_grad_enabled() and link.compares(iteration)
            place = link.target, link.target_tap
            if compares and place not in gradients:
                raw = batches['labeled'].readings[place].raw
                gradients[place] = tap_gradient(task_losses[link.target], raw)
            found[link] = {}
            for kind in link.spec.batches:
                batch = batches['labeled' if kind == 'labeled' else 'strong']
                reading = batch.readings[place]
                value, sources, context = given[link, kind]
                value = separate(value) if compares and link.projects else value
                found[link][kind] = own = link(value, sources, context)
                if torch.is_grad_enabled():
                    link.check_learns(own)
                if compares and link not in products and link.measures(iteration):
                    loss = sum(own.losses.values(), batch.inputs.new_zeros(()))
                    images = len(batches['labeled'].inputs), len(batch.inputs)
                    products[link] = link.products(
                        loss,
                        reading.raw,
                        gradients[place],
                        None if kind == 'labeled' else images,
                    )
                if compares and link.projects:  # after the measurement, which is of the whole
                    bend(link.key, value, reading, gradients[place])
        measurements = dict(zip(products, measure(list(products.values()))))
        for link, fitting in measurements.items():
            if fitting is not None:
                link.fit(fitting)
        caps = self._caps(active, progress)
        for link in active:
            measured = measurements.get(link)
            factor = link.factor(progress) * caps[link]
            for kind, own in found[link].items():
                for key, loss in own.losses.items():
                    unscaled[link.spec.on_batch(key, kind)] = loss.detach()
                    terms[link.spec.on_batch(key, kind)] = loss * factor
                terms.update({link.spec.on_batch(k, kind): v for k, v in own.extra.items()})
            if measured is not None:
                terms.update(self._logged(link, measured, factor, batches['labeled'].inputs))
        self._check_terms(active, terms, unscaled, iteration)
        for link in self:
            if link not in active and target in (None, link.target):
                terms.update(self._silent(link, batches['labeled'].inputs))
        return terms

    def _given(
        self,
        link: Link,
        kind: str,
        batches: Mapping[str, Batch],
        detached: dict[tuple[int, str, str], TapValue],
        progress: float,
    ) -> tuple[TapValue, list[TapValue], LinkContext]:
        """Return what a link compares on the labeled or the unlabeled images, and its context."""
        batch = batches['labeled' if kind == 'labeled' else 'strong']
        source = batch if kind == 'labeled' else batches[link.spec.source_view]
        reading = batch.readings[link.target, link.target_tap]
        self._check_gradient(link, reading)
        context = self._context(link, batch, progress)
        return reading.value, self._sources(link, source, detached), context

    @staticmethod
    def _sources(
        link: Link, batch: Batch, detached: dict[tuple[int, str, str], TapValue]
    ) -> list[TapValue]:
        """Return the sources' values; what several links read is detached once."""
        values = []
        for name in link.source:
            value = batch.readings[name, link.source_tap].value
            if link.spec.detach:
                value = detached.setdefault((id(batch), name, link.source_tap), detach(value))
            values.append(value)
        return values

    @staticmethod
    def _logged(
        link: Link, measured: Measurement, factor: float, like: Tensor
    ) -> dict[str, Tensor]:
        """Return what a measurement found, for the log."""
        share = factor * measured.link_norm / max(measured.task_norm, 1e-30)
        found = {'share': share, 'factor': factor}
        if measured.cosine is not None:
            found['cosine'] = measured.cosine
        return {link.spec.log_key(key): like.new_tensor(value) for key, value in found.items()}

    def _context(self, link: Link, batch: Batch, progress: float) -> LinkContext:
        networks = [self.members.network(name) for name in link.source]
        mask = batch.mask
        if mask is not None and get_world_size() > 1:
            # What is known of it is then the link's own: all ranks sum alike, whatever their sizes.
            mask = mask.view_as(mask)
        return LinkContext(
            mask=mask,
            data_samples=batch.data_samples,
            image_metas=batch.image_metas,
            progress=progress,
            target_network=self.members.network(link.target),
            source_network=networks[0] if len(networks) == 1 else networks,
            target_tap=link.target_tap,
            source_tap=link.source_tap,
            task=self.task,
        )

    @staticmethod
    def _check_gradient(link: Link, reading: Reading) -> None:
        if torch.is_grad_enabled() and not requires_grad(reading.value):
            raise ConfigError(
                f'{link.key}.target_tap: {link.target_tap!r} of {link.target!r} has no gradient, '
                'so the link teaches nothing: its layers are frozen, or it lies inside a reentrant '
                'activation checkpoint (with_cp, activation_checkpointing); tap the checkpointed '
                'module itself or a later one'
            )

    def _caps(self, active: Sequence[Link], progress: float) -> dict[Link, float]:
        """Return by how much each link's factor shrinks, for the targets' `max_share`."""
        caps = dict.fromkeys(active, 1.0)
        if self.max_share is None:
            return caps
        shares = {link: link.share(progress) for link in active}
        sums: dict[str, float] = {}
        for link, share in shares.items():
            sums[link.target] = sums.get(link.target, 0.0) + share
        for link, share in shares.items():
            if share and sums[link.target] > self.max_share:
                caps[link] = self.max_share / sums[link.target]
        return caps

    def _check_terms(
        self,
        active: Sequence[Link],
        terms: dict[str, Tensor],
        unscaled: Mapping[str, Tensor],
        iteration: int,
    ) -> None:
        """Silence links whose terms are not finite: their targets still learn from the rest.

        Args:
            active: The links that took part.
            terms: Changed in place.
            unscaled: The losses at factor 1, by the same keys.
            iteration: From 0.

        Raises:
            ConfigError: For a loss below 0: minimized, it would leave all bounds.
        """
        if not unscaled:
            return
        # One device read, as long as nothing is wrong.
        finite = torch.stack([v.detach().float() for v in terms.values()]).isfinite().all()
        signs = torch.stack([v.float() for v in unscaled.values()]) >= LEAST_LOSS
        if bool(finite & signs.all()):
            return
        for link in active:
            own = {t: terms[t] for batch in link.spec.batches for t in link.terms_on(batch)}
            broken = [f'{t}: {v.item()}' for t, v in own.items() if not torch.isfinite(v)]
            if broken:
                print_log(
                    f'{", ".join(broken)} at iteration {iteration + 1}; the link is left out of '
                    'this step',
                    logger='current',
                    level=30,
                )
                terms.update(self._silent(link, next(iter(own.values()))))
            else:
                link.check_signs({t: unscaled[t] for t in own if t in unscaled}, iteration)

    @staticmethod
    def _silent(link: Link, like: Tensor) -> dict[str, Tensor]:
        """Return terms of 0 in which the link's modules keep a (zero) gradient, as DDP expects."""
        zero = sum((p.sum() * 0 for p in link.parameters()), like.new_zeros(()))
        return {term: zero for batch in link.spec.batches for term in link.terms_on(batch)}
