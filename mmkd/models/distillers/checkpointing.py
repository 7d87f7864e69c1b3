"""Activation checkpointing: modules that compute their activations again in the backward pass."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmkd.utils.buffers import KeptBuffers, keeps_statistics, kept_statistics
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


class Checkpointed:
    """A module's `forward` that keeps its inputs alone for the backward pass.

    Unlike mmengine's `turn_on_activation_checkpointing` it moves running statistics once a step
    (the second computation leaves buffers as they are), taps inside the module get gradients, and a
    copy of the module (an ema member's) calls its own layers.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's forward."""
        forward = partial(type(self.module).forward, self.module)
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _Again(self.module, keeps_statistics(self.module))


class _Again:
    """The second computation: no trace in buffers, and norms by their batch as in the first.

    torch enters it once for each backward pass over the same graph.
    """

    def __init__(self, module: nn.Module, own_statistics: bool) -> None:
        self.module, self.own_statistics = module, own_statistics
        self.entered: list[ExitStack] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(KeptBuffers(self.module).around())
            if self.own_statistics:
                stack.enter_context(kept_statistics(self.module))
            self.entered.append(stack.pop_all())

    def __exit__(self, *exception: Any) -> None:
        self.entered.pop().__exit__(*exception)


def turn_on_checkpointing(network: nn.Module, modules: bool | Sequence[str], key: str) -> None:
    """Checkpoint modules of a network.

    Args:
        network: A member's network.
        modules: Their paths; True: the parts of the backbone (its stages or blocks).
        key: Where they stand in the config, for messages.

    Raises:
        ConfigError: If there is no such module.
    """
    if modules is True:
        backbone: Any = getattr(network, 'backbone', None)
        found = [] if backbone is None else list(_parts(backbone))
        if not found:
            raise ConfigError(
                f"{key}: the network has no backbone of several parts: expected modules' paths"
            )
    elif not isinstance(modules, (list, tuple)) or not all(isinstance(m, str) for m in modules):
        raise ConfigError(f"{key}: expected True or a list of modules' paths, got {modules!r}")
    else:
        known = dict(network.named_modules())
        found = [known[choose(path, list(filter(None, known)), key)] for path in modules]
    for module in found:
        module.forward = Checkpointed(module)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the children that have layers of their own; of lists, their items."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from _parts(child)
        elif len(list(child.children())) > 0 and any(p.requires_grad for p in child.parameters()):
            yield child
