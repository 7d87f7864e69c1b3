import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from mmkd.tasks.base import Task
from mmkd.utils.buffers import KeptBuffers
from mmkd.utils.checkpoint import digest_of, load_member, only_weights
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.memory_format import let_operators_read_channels_last
from mmkd.utils.samples import clone_samples

from .checkpointing import turn_on_checkpointing
from .member_spec import MemberSpec
from .prediction_cache import PredictionCache
from .preprocessing import Renormalize, check_statistics
from .tap import Enough, Reading, SeenForward, Tap, detach, moved
from .watch import Watch

# By (member, tap): what the links' taps read in one forward pass.
Readings = dict[tuple[str, str], Reading]

# Attributes that hide a child of the same name.
RESERVED = {
    'averaged',
    'caches',
    'frozen',
    'online',
    'renormalize',
    'specs',
    'taps',
    '_terms',
    '_watches',
}


class FrozenNetworks(dict[str, nn.Module]):
    """Frozen members' networks: no parameters of the distiller's; its copies share them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> 'FrozenNetworks':
        # Whatever else refers to them in a copy (taps, the task) must share them, too.
        for network in self.values():
            for module in network.modules():
                memo[id(module)] = module
                for hook in module._forward_hooks.values():
                    memo[id(hook)] = hook
                forward = module.__dict__.get('forward')
                if isinstance(forward, SeenForward):
                    memo[id(forward.recorder)] = forward.recorder
        return self


def check_members(specs: Mapping[str, MemberSpec]) -> None:
    """Raise a ConfigError unless a member is trained and each ema member averages one that is."""
    online = [name for name, spec in specs.items() if spec.training == 'online']
    for name, spec in specs.items():
        if spec.training == 'ema':
            choose(spec.of, online, f'{spec.key}.of (an online member)')
        if hasattr(Members, name) or name in RESERVED:
            raise ConfigError(
                f'model.members: {name!r} is no valid member name: it is reserved, choose another'
            )
    if not online:
        raise ConfigError(
            "model.members: no member is trained: one at least must have training='online'"
        )


class Members(nn.ModuleDict):
    """The members' networks: build them, run one and read its taps.

    Its children are the networks of online and ema members, by name; frozen ones are outside the
    parameters and the state dict (`network(name)` finds all).

    Args:
        specs: By name.
        preprocessor: The shared data preprocessor.
        channels_last: Whether weights and images are in the channels-last memory format.
    """

    def __init__(
        self,
        specs: Mapping[str, MemberSpec],
        preprocessor: BaseDataPreprocessor,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.frozen = FrozenNetworks()
        # What the frozen members' checkpoints say that they tell apart.
        self.frozen_classes: dict[str, list[str] | None] = {}
        self.caches = {
            name: PredictionCache(spec.cache_mb, f'{spec.key}.cache_mb')
            for name, spec in self.specs.items()
            if spec.cache_mb
        }
        self.taps: dict[tuple[str, str], Tap] = {}
        self.online = [name for name, spec in specs.items() if spec.training == 'online']
        self.averaged = [name for name, spec in specs.items() if spec.training == 'ema']
        run_seed = torch.initial_seed()
        for name, spec in self.specs.items():
            if spec.training == 'ema':
                continue
            network = spec.build(run_seed)
            if spec.training == 'frozen':
                assert spec.checkpoint is not None
                self.frozen_classes[name] = load_member(
                    network, spec.checkpoint, name, f'{spec.key}.checkpoint', strict=True
                )
                self.frozen[name] = network.eval().requires_grad_(False).to(spec.device)
            else:
                self[name] = network
                if spec.checkpointing:
                    turn_on_checkpointing(network, spec.checkpointing, f'{spec.key}.checkpointing')
        for name in self.averaged:
            averaged = self[str(self.specs[name].of)]
            self[name] = copy.deepcopy(averaged).eval().requires_grad_(False)
        self._register_state_dict_hook(_name_as_alone)
        check_statistics(preprocessor, 'model.data_preprocessor')
        self._watches = {name: Watch(self[name]) for name in self.online}
        self._terms: dict[str, list[str]] = {}
        self.renormalize: dict[str, Renormalize] = {}
        for name, network in self.networks().items():
            config = self.specs[self.specs[name].of or name].config
            if config is None or config.get('data_preprocessor') is None:
                continue  # it takes the shared images as they are
            own = network.get_submodule('data_preprocessor')
            check_statistics(own, f'{self.specs[name].key}.config.data_preprocessor')
            conversion = Renormalize(preprocessor, own)
            if not conversion.is_identity:
                self.renormalize[name] = conversion
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            let_operators_read_channels_last()
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def network(self, name: str) -> nn.Module:
        """Return the network of the member `name`."""
        return self.frozen[name] if name in self.frozen else self[name]

    def frozen_digests(self) -> dict[str, str]:
        """Return a digest of each frozen member's weights, by which a resumed run knows them."""
        if not hasattr(self, '_digests'):
            self._digests = {name: digest_of(network) for name, network in self.frozen.items()}
        return self._digests

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise a ConfigError if a frozen member has the data's classes in another order.

        Args:
            classes: Of the training data.
        """
        for name, own in self.frozen_classes.items():
            told = f'{self.specs[name].key}.checkpoint: it was trained on the classes {own}'
            if own is None or own == list(classes) or len(own) != len(classes):
                continue
            if sorted(own) == sorted(classes):
                raise ConfigError(
                    f'{told}, the training data have {list(classes)}: in another order, it would '
                    'teach wrong classes'
                )
            print_log(f'{told}, the training data have {list(classes)}', 'current', level=30)

    def networks(self) -> dict[str, nn.Module]:
        """Return all networks by name, in the config's order."""
        return {name: self.network(name) for name in self.specs}

    def init_weights(self) -> None:
        """Initialize each online member in its own random stream, then load its checkpoint."""
        for name in self.online:
            spec = self.specs[name]
            network: Any = self[name]
            assert spec.stream is not None
            # Random values are filled in as they lie in memory: equal ones in either format.
            network.to(memory_format=torch.contiguous_format)
            try:
                with spec.stream(), only_weights():
                    network.init_weights()
            except ConfigError as error:  # of a pretrained file (init_cfg) that cannot be loaded
                raise ConfigError(f'model.members.{name}, init_cfg: {error}') from error
            if spec.checkpoint is not None:
                key = f'{spec.key}.checkpoint'
                load_member(self[name], spec.checkpoint, name, key, strict=False)
            network.to(memory_format=self.memory_format)
        for name in self.averaged:
            self[name].load_state_dict(self[str(self.specs[name].of)].state_dict())

    def train(self, mode: bool = True) -> 'Members':
        """Set training mode; frozen and ema members stay in eval mode."""
        super().train(mode)
        for name in self.averaged:
            self[name].eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> 'Members':
        for name, network in self.frozen.items():
            device = self.specs[name].device
            network._apply(fn if device is None else lambda t, device=device: fn(t).to(device))
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def update_averages(self, step: int) -> None:
        """Move each ema member towards the member it averages.

        Running statistics are averaged as the weights are: those of the member's newest weights
        do not fit the average's. The first steps count alike, so that the initial weights are
        forgotten (Tarvainen & Valpola, arXiv 1703.01780, do so in their code).

        Args:
            step: Of the optimizers, from 0.
        """
        for name in self.averaged:
            own, other = self[name], self[str(self.specs[name].of)]
            momentum = max(self.specs[name].momentum, 1 / (step + 1))
            tensors = ([*network.parameters(), *network.buffers()] for network in (own, other))
            pairs = list(zip(*tensors))
            averaged = [(a, b) for a, b in pairs if a.is_floating_point()]
            torch._foreach_lerp_([a for a, _ in averaged], [b for _, b in averaged], momentum)
            for value, source in pairs:
                if not value.is_floating_point():
                    value.copy_(source)

    def inputs_of(self, name: str, inputs: Tensor, data_samples: list[Any] | None) -> Tensor:
        """Return the shared images (N, C, H, W) as the member `name` takes them, on its device."""
        if name in self.renormalize:
            inputs = self.renormalize[name](inputs, data_samples)
        inputs = inputs.to(self.specs[name].device, non_blocking=True)
        return inputs.contiguous(memory_format=self.memory_format)

    # ---------------------------------------------------------------- running one member

    def losses(
        self,
        name: str,
        inputs: Tensor,
        data_samples: list[Any],
        taps: Iterable[str],
        around: AbstractContextManager[Any] | None = None,
        only_taps: bool = False,
    ) -> tuple[dict[str, Any], Readings]:
        """Run an online member's own `loss()` once, in its own random stream, and read its taps.

        Where a network's outputs are not finite (SimOTA's and Hungarian assignments fail on them),
        its terms are NaN, so that it skips the step and the others do not.

        Args:
            name: The member.
            inputs: Preprocessed images (N, C, H, W).
            data_samples: One per image, with ground truth.
            taps: Names of the taps to read.
            around: A context to run it in (a mixer's).
            only_taps: Whether to stop once the taps are read.

        Returns:
            The loss terms, `<member>/<term>` (none if it was stopped), and what the taps read.
        """
        samples = clone_samples(data_samples)
        images = self.inputs_of(name, inputs, samples)
        watch = self._watches[name]
        watch.clear()
        with self._stream(name, inputs), self._recording(name, taps, only_taps) as read:
            try:
                with around or nullcontext():
                    losses = self[name](images, samples, mode='loss')
            except Enough:
                return {}, read()
            except ConfigError:
                raise
            except Exception as error:
                if watch.finite():
                    raise
                print_log(
                    f'{name}: its outputs are not finite, its loss cannot be computed '
                    f'({type(error).__name__}: {str(error).split(chr(10))[0]})',
                    logger='current',
                    level=30,
                )
                readings = read()
                return self._no_terms(name, readings), readings
            # A classifier's bare `loss` would be read as the member's sum.
            losses = watch.marked(losses)
            terms = {f'{name}/{"loss_task" if k == "loss" else k}': v for k, v in losses.items()}
            self._terms[name] = list(terms)
            return terms, read()

    def _no_terms(self, name: str, readings: Readings) -> dict[str, Any]:
        """Return terms of NaN that reach every parameter and tap, under the names of the last."""
        parameters = (p for p in self[name].parameters() if p.requires_grad)
        tapped = (tensor for reading in readings.values() for tensor in reading.raw)
        values = [tensor.sum() for tensor in (*parameters, *tapped)]
        nothing = torch.stack([value.float() for value in values]).sum() * float('nan')
        return dict.fromkeys(self._terms.get(name, [f'{name}/loss_task']), nothing)

    def outputs(
        self,
        task: Task,
        name: str,
        inputs: Tensor,
        data_samples: list[Any] | None,
        taps: Iterable[str],
        cached: bool = True,
    ) -> Readings:
        """Run a member once without losses, as far as its taps need, and read them.

        The member keeps its mode and its own random stream. Unless `cached` it runs whatever its
        cache has.
        """
        taps = list(taps)
        samples = None if data_samples is None else clone_samples(data_samples)
        images, device = self.inputs_of(name, inputs, samples), self.specs[name].device
        if samples is not None and device is not None:
            samples = [sample.to(device) for sample in samples]
        with self._stream(name, images), self._recording(name, taps) as read:
            recorded = [self.taps[name, tap] for tap in taps]
            network, paths = self.network(name), [tap.path for tap in recorded]
            if name not in self.caches or not cached:
                task.run_for_taps(network, images, samples, paths)
            else:
                self.caches[name].read(
                    recorded,
                    images,
                    samples,
                    lambda some, their: task.run_for_taps(network, some, their, paths),
                )
            readings = read()
        if device is None:
            return readings
        return {
            place: Reading(moved(detach(reading.value), inputs.device), ())
            for place, reading in readings.items()
        }

    def _stream(self, name: str, inputs: Tensor) -> AbstractContextManager[Any]:
        stream = self.specs[name].stream
        return nullcontext() if stream is None else stream(inputs.device)

    @contextmanager
    def without_trace(self, name: str) -> Iterator[None]:
        """Take back, in the end, what a member draws from its random stream and its buffers."""
        stream = self.specs[name].stream
        drawn = None if stream is None else stream.state_dict()
        with KeptBuffers(self.network(name)).around():
            yield
        if stream is not None and drawn is not None:
            stream.load_state_dict(drawn)

    @contextmanager
    def _recording(
        self, name: str, taps: Iterable[str], stops: bool = False
    ) -> Iterator[Callable[[], Readings]]:
        recorded = [self.taps[name, tap] for tap in taps]

        def stop_if_read() -> None:
            if all(tap.is_recorded for tap in recorded):
                raise Enough

        for tap in recorded:
            tap.recorder.enabled = True
            tap.recorder.then = stop_if_read if stops else None
        try:
            yield lambda: {(name, tap.name): tap.read() for tap in recorded}
        finally:
            for tap in recorded:
                tap.recorder.enabled, tap.recorder.then = False, None
                tap.recorder.pop()
                if tap.beside is not None:
                    tap.beside.pop()


def _name_as_alone(members: Members, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Name a member's weights as its network names them alone.

    Of a network inside another torch leaves out what its hook returns, but calls what undoes it.
    """
    for name, network in members.items():
        for hook in network._state_dict_hooks.values():
            named = hook(network, state, f'{prefix}{name}.', {})
            if named is not None and named is not state:
                state.clear()
                state.update(named)
