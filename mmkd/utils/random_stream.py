from contextlib import contextmanager

import torch


class RandomStream:
    """A torch random state of one member's own.

    Inside `with stream(device):` torch draws from the member's stream; outside, the global stream goes on as if nothing
    had been drawn. Started by `seed`, the stream gives what `torch.manual_seed(seed)` gives to a network that is alone:
    built, initialised and trained. Only torch's streams (CPU and the CUDA device in use) are kept apart.

    Args:
        seed (int): Start of the stream.
    """

    def __init__(self, seed):
        self.seed = int(seed)
        self.cpu_state = None
        self.cuda_state = None

    @contextmanager
    def __call__(self, device=None):
        cuda = device is not None and torch.device(device).type == 'cuda'
        outer_cpu = torch.get_rng_state()
        outer_cuda = torch.cuda.get_rng_state(device) if cuda else None
        if self.cpu_state is None:
            torch.default_generator.manual_seed(self.seed)
        else:
            torch.set_rng_state(self.cpu_state)
        if cuda and self.cuda_state is None:
            torch.cuda.manual_seed(self.seed)
        elif cuda:
            torch.cuda.set_rng_state(self.cuda_state, device)
        try:
            yield
        finally:
            self.cpu_state = torch.get_rng_state()
            torch.set_rng_state(outer_cpu)
            if cuda:
                self.cuda_state = torch.cuda.get_rng_state(device)
                torch.cuda.set_rng_state(outer_cuda, device)

    def state_dict(self):
        return dict(cpu=self.cpu_state, cuda=self.cuda_state)

    def load_state_dict(self, state):
        self.cpu_state = None if state['cpu'] is None else state['cpu'].cpu()
        self.cuda_state = None if state['cuda'] is None else state['cuda'].cpu()
