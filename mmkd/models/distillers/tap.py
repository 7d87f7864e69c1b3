import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkd.tasks.base import Task
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError

# A tensor, a list of tensors (levels), or a task's own structure (`DensePrediction`).
TapValue = Any


class Enough(BaseException):
    """All taps that were asked for are read: the rest of a forward pass need not run.

    No `Exception`: networks that catch those must not catch it.
    """


class Recorder:
    """A forward hook that keeps a module's output until it is read.

    A callable object rather than a closure, so that deepcopy (mmengine's EMAHook makes one) gives
    the copy its own recorder. Outputs are not buffers: they are never saved, broadcast or copied.
    """

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self.enabled = False
        self.then: Callable[[], None] | None = None  # what is called with each output

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep an output, as torch calls a forward hook."""
        if self.enabled:
            self.outputs.append(output)
            if self.then is not None:
                self.then()

    def __deepcopy__(self, memo: dict[int, Any]) -> 'Recorder':
        return type(self)()

    def pop(self) -> list[Any]:
        """Return the outputs since the last call and forget them."""
        outputs, self.outputs = self.outputs, []
        return outputs


class SeenForward:
    """Stands for a module's own `forward`, so that calls of it by name are seen, too.

    MMSegmentation's decode heads call `self.forward(inputs)` in their loss, which no hook sees. A
    copy of the module (deepcopy) gets one of its own.

    Args:
        module: The module, whose attribute `forward` this becomes.
        recorder: What keeps its outputs.
    """

    def __init__(self, module: nn.Module, recorder: Recorder) -> None:
        self.module, self.recorder, self.inner = module, recorder, module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, and keep the output."""
        output = self.inner(*args, **kwargs)
        self.recorder(self.module, args, output)
        return output


class Reading(NamedTuple):
    """What a tap read in one forward pass.

    `value` is the tap's value; `raw` the tensors that the module returned, where the gradient of
    whatever uses the value enters the network.
    """

    value: TapValue
    raw: tuple[Tensor, ...]


class Tap:
    """One place of one member where knowledge is read.

    Args:
        member: The member's name.
        path: A standard name of the task (`prediction`, `feature`) or a module path (`neck`,
            `backbone.layer4`), with `[i]` for one level of several.
        network: The member's network.
        task: The task, which resolves standard names.
        key: Where the tap stands in the config, for messages.

    Raises:
        ConfigError: If there is no such standard name or module; the message names the nearest.
    """

    def __init__(self, member: str, path: str, network: nn.Module, task: Task, key: str) -> None:
        match = re.fullmatch(r'([\w.]+)(?:\[(\d+)\])?', path)
        if match is None:
            raise ConfigError(
                f"{key}: expected 'name', 'module.path' or either with '[i]', got {path!r}"
            )
        name, index = match.groups()
        self.member, self.name, self.key = member, path, key
        self.index = None if index is None else int(index)
        self.reader: Callable[[nn.Module, Any], TapValue] | None = None
        if name in task.standard_taps:
            self.path, self.reader = task.resolve_tap(name, network, key)
        else:
            self.path = name
            task.check_tap(name, network, key)
        modules = dict(network.named_modules())
        if self.path not in modules:
            known = [*task.standard_taps, *filter(None, modules)]
            choose(name, known, f'{key} (a tap of {member!r})')
        self.module = modules[self.path]
        self.recorder = Recorder()
        self.beside = getattr(self.reader, 'keywords', {}).get('call')
        if self.beside is not None:  # what the reader needs of another module
            self.beside.recorder = self.recorder
        if task.calls_forward(self.module):
            self.module.forward = SeenForward(self.module, self.recorder)
        else:
            # Before a `Watch`, which ends the pass at outputs that are not finite.
            self.module.register_forward_hook(self.recorder, prepend=True)

    @property
    def is_recorded(self) -> bool:
        """Whether all that the tap's value needs has been computed."""
        return bool(self.recorder.outputs) and (self.beside is None or self.beside.called)

    def read(self) -> Reading:
        """Return the tap's value in the last forward pass.

        Raises:
            ConfigError: If the module did not run exactly once in it.
        """
        output = self.output()
        value, raw = self.value_of(output), list(tensors_of(output))
        own = list(tensors_of(value))
        given = {id(tensor) for tensor in raw}
        # The level that is read alone, unless a reader made something new of the output.
        return Reading(value, tuple(own if own and all(id(t) in given for t in own) else raw))

    def output(self) -> Any:
        """Return and clear what the module returned in the last forward pass.

        Raises:
            ConfigError: If the module did not run exactly once in it.
        """
        outputs = self.recorder.pop()
        if len(outputs) != 1:
            why = (
                f'is called {len(outputs)} times in one forward pass: tap one that is called '
                'once, such as the backbone or the neck'
                if outputs
                else 'is not called as a module in the forward pass: tap one of its submodules'
            )
            raise ConfigError(f'{self.key}: the module {self.path!r} of {self.member!r} {why}')
        return outputs[0]

    def value_of(self, output: Any) -> TapValue:
        """Return the tap's value of its module's output.

        Raises:
            ConfigError: If the tap asks for a level that the output does not have.
        """
        value = output if self.reader is None else self.reader(self.module, output)
        if isinstance(value, (list, tuple)):
            value = list(value)
            if self.index is not None:
                if self.index >= len(value):
                    raise ConfigError(
                        f'{self.key}: level [{self.index}] of {self.path!r}, which has '
                        f'{len(value)} levels'
                    )
                return value[self.index]
            return value[0] if len(value) == 1 else value
        if self.index is not None:
            raise ConfigError(
                f'{self.key}: [{self.index}] of {self.path!r}, whose output is not a sequence'
            )
        return value


def tensors_of(output: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors in a module's output: nested tuples, lists and dicts."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from tensors_of(item)
    elif isinstance(output, dict):
        yield from tensors_of(list(output.values()))


def detach(value: TapValue) -> TapValue:
    """Cut a tap's value out of the graph."""
    return [item.detach() for item in value] if isinstance(value, list) else value.detach()


def moved(value: TapValue, device: torch.device) -> TapValue:
    """Return a detached value on another device.

    Raises:
        ConfigError: For one that is computed further by its member's own network.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(moved(item, device) for item in value)
    made_later = hasattr(value, 'network') or getattr(value, 'masks', None) is not None
    if not is_dataclass(value) or made_later:
        raise ConfigError(
            f'model.members: a {type(value).__name__} cannot be moved between devices: leave out '
            "the member's `device`, or tap its features"
        )
    tensors = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
    return replace(  # type: ignore[type-var]
        value,
        **{
            name: moved(part, device) if isinstance(part, (Tensor, list, tuple)) else part
            for name, part in tensors.items()
        },
    )


def requires_grad(value: TapValue) -> bool:
    """Return whether a gradient flows from a tap's value, or from one of its levels."""
    if isinstance(value, list):
        return any(requires_grad(item) for item in value)
    return value.requires_grad


def describe(value: TapValue) -> str:
    """Describe a tap's shape in words, for messages."""
    if isinstance(value, list):
        return '[' + ', '.join(describe(item) for item in value) + ']'
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    return str(value)
