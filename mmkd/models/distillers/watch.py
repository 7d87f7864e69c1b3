import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .tap import tensors_of


class Watch:
    """A forward hook that tells whether what modules have returned is finite, if asked.

    It asks the device only then, and keeps no tensor alive. Where it must be known at once it
    raises: SimOTA computes binary cross entropies, and one of values that are not numbers ends a
    CUDA process.

    Args:
        network: The network whose children it watches in training.
    """

    def __init__(self, network: nn.Module) -> None:
        self.outputs: list[weakref.ref[Tensor]] = []
        for child in network.children():
            child.register_forward_hook(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> 'Watch':
        copied = type(self).__new__(type(self))
        copied.outputs = []
        return copied

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note an output, as torch calls a forward hook."""
        if not module.training:
            return
        tensors = list(tensors_of(output))
        self.outputs += [weakref.ref(tensor) for tensor in tensors]
        at_once = type(getattr(module, 'assigner', None)).__name__ == 'SimOTAAssigner'
        if at_once and not all_finite([t for t in tensors if t.is_cuda]):
            raise FloatingPointError('outputs that are not finite cannot be assigned')

    def finite(self) -> bool:
        """Whether all outputs since `clear` that are still in use are finite."""
        alive = (reference() for reference in self.outputs)
        return all_finite([tensor for tensor in alive if tensor is not None])

    def clear(self) -> None:
        """Forget the outputs so far."""
        self.outputs = []


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all values of all tensors are finite; the device is asked once, not for each."""
    if not tensors:
        return True
    device = tensors[0].device
    return bool(torch.stack([each.isfinite().all().to(device) for each in tensors]).all())
