from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class KeptBuffers:
    """A module's buffers as they were, to go back to.

    Those of a child whose class says `goes_back = False` are left alone.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.places = [
            (child._buffers, name)
            for child in module.modules()
            if getattr(child, 'goes_back', True)
            for name, buffer in child._buffers.items()
            if buffer is not None
        ]
        self.kept: list[Tensor] = []

    def _live(self) -> list[Tensor]:
        return [buffer for places, name in self.places if (buffer := places[name]) is not None]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember the present values."""
        live = self._live()
        if [buffer.shape for buffer in self.kept] != [buffer.shape for buffer in live]:
            self.kept = [buffer.clone() for buffer in live]
        elif live:
            torch._foreach_copy_(self.kept, live)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the values remembered."""
        if self.kept:
            torch._foreach_copy_(self._live(), self.kept)

    @contextmanager
    def around(self) -> Iterator[None]:
        """Go back, at the end, to the values at the start."""
        self.keep()
        try:
            yield
        finally:
            self.restore()


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Normalize by each batch's own statistics inside, without moving the running ones.

    Strong views (jitter, CutMix) are unlike the images that the network is evaluated on.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def keeps_statistics(network: nn.Module) -> bool:
    """Return whether a network's norms are inside `kept_statistics`."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    return any(m.running_mean is not None and not m.track_running_stats for m in norms)


@contextmanager
def run_again(network: nn.Module, training: bool) -> Iterator[None]:
    """Let parts of a network run once more for a link, in the mode that its step had.

    Args:
        network: The network. Its running statistics stay as they are.
        training: Its mode when it ran.
    """
    modes = [(m, m.training) for m in network.modules()] if network.training != training else []
    for module, _ in modes:
        module.training = training
    try:
        with kept_statistics(network):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
