from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class RandomStream:
    """A torch random state of one member's own.

    Inside `with stream(device):` torch draws from the member's stream; outside, the global stream
    goes on as if nothing had been drawn. Started by `seed`, the stream gives what
    `torch.manual_seed(seed)` gives to a network that is alone: built, initialized and trained. Only
    torch's streams (CPU and the CUDA device in use) are kept apart.

    Args:
        seed: Start of the stream.
    """

    def __init__(self, seed: int) -> None:
        self.seed = int(seed)
        self.cpu_state: Tensor | None = None
        self.cuda_state: Tensor | None = None

    @contextmanager
    def __call__(self, device: torch.device | str | None = None) -> Iterator[None]:
        """Draw from this stream, on the CPU and on `device`."""
        cuda = device is not None and torch.device(device).type == 'cuda'
        outer_cpu = torch.get_rng_state()
        outer_cuda = torch.cuda.get_rng_state(device) if device is not None and cuda else None
        if self.cpu_state is None:
            torch.default_generator.manual_seed(self.seed)
        else:
            torch.set_rng_state(self.cpu_state)
        if cuda and self.cuda_state is None:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(self.seed)
        elif device is not None and self.cuda_state is not None and cuda:
            torch.cuda.set_rng_state(self.cuda_state, device)
        try:
            yield
        finally:
            self.cpu_state = torch.get_rng_state()
            torch.set_rng_state(outer_cpu)
            if device is not None and outer_cuda is not None:
                self.cuda_state = torch.cuda.get_rng_state(device)
                torch.cuda.set_rng_state(outer_cuda, device)

    def state_dict(self) -> dict[str, Tensor | None]:
        """Return the stream's states, None as long as nothing was drawn."""
        return dict(cpu=self.cpu_state, cuda=self.cuda_state)

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on from saved states."""
        cpu, cuda = state['cpu'], state['cuda']
        self.cpu_state = None if cpu is None else cpu.cpu()
        self.cuda_state = None if cuda is None else cuda.cpu()
