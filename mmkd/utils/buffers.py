from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
