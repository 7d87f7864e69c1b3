from collections.abc import Mapping, Sequence
from typing import Any

from mmkd.registry import SCHEDULES
from mmkd.schedules import Constant, Schedule
from mmkd.utils.checks import build_checked, check_arguments, check_number, choose
from mmkd.utils.errors import ConfigError

BATCHES = ('labeled', 'unlabeled')
LOGGED = ('share', 'factor', 'cosine')  # what a measurement leaves in the log


class LinkSpec:
    """What a config says of one link.

    Args:
        source: The member that knowledge is read from, or several; `ensemble` stands for the
            ensemble's members (less the target). A source gets no gradient (see `detach`). With
            `combine` the target may be one of several.
        target: The member that learns.
        tap: The tap on both sides.
        source_tap: The sources' tap where it differs.
        target_tap: The target's tap where it differs.
        loss: Config of the loss. Default: the task's own for the standard taps.
        combine: Config of the `Combiner` that makes one value of several sources'. Default: the
            loss gets the list.
        connector: Config of the `Connector` on the target's side that makes the taps comparable,
            or a chain of several, each built for what the one before gives. `auto` makes a
            `ConvConnector` where channels differ, a resize where only sizes do, else none.
        source_connector: The same on the (detached) value of the sources. It belongs to the link:
            trained with the target's optimizer, left behind at export.
        weight: Factor of the loss's terms, or the config of a `WeightRule` that is fitted while
            training (`GradientShare`). Terms that a connector adds keep factor 1.
        schedule: Config of a schedule, a further factor over training progress.
        guard: `mute`, `project`, `log`, or the config of a `NegativeTransferGuard`.
        only_if_better: A metric without the member (`mDice`): the link rests while the best of its
            sources is not better than its target in the last validation.
        on: The batch that the link acts on: `labeled`, `unlabeled` or `both`.
        source_view: Which view of unlabeled images the sources see: `weak`, or `strong`, the same
            as the target (and then the same forward pass).
        detach: Cut the sources' side out of the graph.
        name: Part of the term's key `target/loss_<name>[source:tap]`; on unlabeled images
            `target/loss_<name>_unlabeled[source:tap]`. A loss or connector that gives several
            terms makes `target/loss_<name>_<key>[source:tap]`.

    Raises:
        ConfigError: For contradictory or unknown values.
    """

    def __init__(
        self,
        source: str | Sequence[str],
        target: str,
        tap: str = 'prediction',
        source_tap: str | None = None,
        target_tap: str | None = None,
        loss: dict[str, Any] | str | None = None,
        combine: dict[str, Any] | str | None = None,
        connector: Any = 'auto',
        source_connector: Any = None,
        weight: float | dict[str, Any] = 1.0,
        schedule: dict[str, Any] | str | None = None,
        guard: str | dict[str, Any] | None = None,
        only_if_better: str | None = None,
        on: str = 'labeled',
        source_view: str = 'weak',
        detach: bool = True,
        name: str = 'kd',
        *,
        key: str = 'link',
        ensemble: Sequence[str] = (),
    ) -> None:
        self.key, self.target, self.detach, self.name = key, target, detach, name
        self.source_tap, self.target_tap = source_tap or tap, target_tap or tap
        self.loss, self.combine = loss, combine
        self.connector, self.source_connector = connector, source_connector
        self.only_if_better, self.guard = only_if_better, guard
        names: list[Any] = list(source) if isinstance(source, (list, tuple)) else [source]
        texts = [('target', target), ('name', name), *(('source', n) for n in names)]
        texts += [('source_tap', self.source_tap), ('target_tap', self.target_tap)]
        if only_if_better is not None:
            texts.append(('only_if_better', only_if_better))
        for argument, value in texts:
            if not isinstance(value, str):
                raise ConfigError(f'{key}.{argument}: expected a name, got {value!r}')
        self.label = '+'.join(map(str, names))
        self.sources: list[str] = []
        for member in names:
            self.sources += (
                [n for n in ensemble if n != target] if member == 'ensemble' else [member]
            )
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ConfigError(f'{key}.source: expected one or more different members, got {source}')
        self.on = choose(on, (*BATCHES, 'both'), f'{key}.on')
        self.source_view = choose(source_view, ('weak', 'strong'), f'{key}.source_view')
        own_weak_view = on == 'unlabeled' and source_view == 'weak'  # FixMatch: learn from oneself
        one_of_several = combine is not None and detach and len(self.sources) > 1  # as in KDCL
        if target in self.sources and not (own_weak_view or one_of_several):
            raise ConfigError(
                f'{key}: source and target are both {target!r}; a target can be one of several '
                'detached sources with `combine`'
            )
        if isinstance(weight, Mapping):
            self.weight: Any = dict(weight)
        else:
            check_number(weight, f'{key}.weight')
            self.weight = weight
        if not isinstance(detach, bool):
            raise ConfigError(f'{key}.detach: expected True or False, got {detach!r}')
        if isinstance(connector, dict) and 'type' not in connector:
            raise ConfigError(f"{key}.connector: expected a config with 'type', got {connector!r}")
        self.schedule: Schedule = (
            Constant()
            if schedule is None
            else build_checked(SCHEDULES, schedule, f'{key}.schedule')
        )

    @classmethod
    def from_config(cls, cfg: Any, key: str, ensemble: Sequence[str] = ()) -> 'LinkSpec':
        """Build from a config's dict, checking its keys."""
        if not isinstance(cfg, dict):
            raise ConfigError(f'{key}: expected a dict with `source` and `target`, got {cfg!r}')
        check_arguments(cls.__init__, cfg, key, given=('key', 'ensemble'))
        return cls(**cfg, key=key, ensemble=ensemble)

    @property
    def endpoints(self) -> tuple[Any, ...]:
        """Which members and taps the link joins, on which images; sources in whatever order."""
        sources = frozenset(self.sources)
        return (sources, self.target, self.source_tap, self.target_tap, self.on)

    @property
    def batches(self) -> tuple[str, ...]:
        """The batches that the link acts on."""
        return BATCHES if self.on == 'both' else (self.on,)

    def term_of(self, key: str) -> str:
        """Return the key of one of the link's terms among the losses, on labeled images."""
        name = f'{self.name}_{key}' if key else self.name
        return f'{self.target}/loss_{name}[{self.label}:{self.source_tap}]'

    def log_key(self, kind: str) -> str:
        """Return the key under which the link's `share`, `cosine` or `factor` is logged."""
        return f'{self.target}/{kind}_{self.name}[{self.label}:{self.source_tap}]'

    @staticmethod
    def is_log_key(key: str) -> bool:
        """Return whether a key is of `log_key`: no loss term, whatever its names are."""
        kind = key.partition('/')[2].partition('_')[0]
        return kind in LOGGED and key.endswith(']')

    @staticmethod
    def on_batch(term: str, batch: str) -> str:
        """Return a term's key on the `labeled` or the `unlabeled` batch."""
        return term if batch == 'labeled' else term.replace('[', '_unlabeled[', 1)
