"""torch.compile of members and links by one switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd.utils.checks import check_arguments
from mmkd.utils.errors import ConfigError

from .tap import SeenForward

if TYPE_CHECKING:
    from .links import Links
    from .members import Members


class Compiler:
    """What compiles modules, as long as torch.compile works on this machine.

    It is tried once, on the device of the first training step: the default backend needs a C++
    compiler on CPUs and Triton on GPUs. Where it fails, all modules run as they are, and one
    warning says why.

    Args:
        options: Of `torch.compile`.

    Raises:
        ConfigError: For options that it does not have.
    """

    def __init__(self, options: Mapping[str, Any] | bool) -> None:
        if not isinstance(options, (bool, Mapping)):
            raise ConfigError(
                "model.compile: expected True or a dict of torch.compile's options, got "
                f'{options!r}'
            )
        self.options = {} if isinstance(options, bool) else dict(options)
        check_arguments(torch.compile, self.options, 'model.compile', given=('model',))
        self.works: bool | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiler:
        return self

    def tried(self, device: torch.device) -> bool:
        """Return whether torch.compile works."""
        if self.works is None:
            try:
                double = torch.compile(_double, **self.options)
                self.works = bool((double(torch.ones(2, device=device)) == 2).all())
            except Exception as error:  # whatever a backend raises
                self.works = False
                text = ' '.join(str(error).split('\n')[:2])
                print_log(
                    f'model.compile: torch.compile does not work here, the members run uncompiled '
                    f'({type(error).__name__}: {text})',
                    'current',
                    level=30,
                )
        return self.works


def _double(x: Tensor) -> Tensor:
    return x * 2


class Compiled:
    """A module's `forward`, compiled for training; in evaluation it runs as it is.

    What dynamo cannot take runs uncompiled in between. Hooks on the module itself stay outside.
    A copy of the module runs its own layers.

    Args:
        module: The module.
        compiler: Whose options it is compiled with.
        frozen: Whether it is never trained, and so compiled without gradient.
    """

    def __init__(self, module: nn.Module, compiler: Compiler, frozen: bool = False) -> None:
        self.module, self.compiler, self.frozen = module, compiler, frozen
        self.run: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(memo.get(id(self.module), self.module), self.compiler, self.frozen)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's forward."""
        forward = type(self.module).forward
        device = next((p.device for p in self.module.parameters()), torch.device('cpu'))
        wanted = self.frozen or (self.module.training and torch.is_grad_enabled())
        if not wanted or not self.compiler.tried(device):
            return forward(self.module, *args, **kwargs)
        if self.run is None:
            self.run = torch.compile(forward, **self.compiler.options)
        with torch._dynamo.config.patch(suppress_errors=True):
            return self.run(self.module, *args, **kwargs)


def compile_members(members: Members, links: Links, options: Mapping[str, Any] | bool) -> None:
    """Compile the backbones, necks and heads of members, and the links' losses and connectors.

    Of links those that compare tensors and read nothing of the context but the mask. Ema members
    and the ensemble, whose work is on data samples, run as they are.

    Args:
        members: The members.
        links: Their links.
        options: Of `torch.compile`; True: its defaults.

    Raises:
        ConfigError: For options that it does not have, and for a member that is checkpointed.
    """
    compiler = Compiler(options)
    if any(link.rule is not None or link.guard is not None for link in links):
        _keep_graphs()
    for name, network in members.networks().items():
        spec = members.specs[name]
        if spec.checkpointing:
            raise ConfigError(
                f'{spec.key}.checkpointing: a member is either checkpointed or compiled '
                '(model.compile)'
            )
        for part in _parts(network) if spec.training != 'ema' else ():
            compiled = Compiled(part, compiler, spec.training == 'frozen')
            if isinstance(part.forward, SeenForward):  # a tap sees what it returns
                part.forward.inner = compiled
            else:
                part.forward = compiled
    for link in links:
        plain = all(level is not None for form in link.forms for level in form)
        modules = [link.loss] if plain and link.context_names <= {'mask'} else []
        for module in (*modules, *link.connectors):
            if not isinstance(module, (nn.Identity, nn.ModuleList)):
                module.forward = Compiled(module, compiler)


def _keep_graphs() -> None:
    """Let compiled graphs run backward more than once, as links that measure gradients do.

    By default torch gives some of a graph's memory away in its first backward pass.
    """
    from torch._functorch import config

    if hasattr(config, 'donated_buffer'):
        config.donated_buffer = False


def _parts(network: nn.Module) -> list[nn.Module]:
    """Return what networks call as modules and has weights: backbone, neck and heads."""
    return [
        child
        for name, child in network.named_children()
        if (name in ('backbone', 'neck') or name.endswith('head'))
        and not isinstance(child, nn.ModuleList)
        and len(list(child.parameters())) > 0
    ]
