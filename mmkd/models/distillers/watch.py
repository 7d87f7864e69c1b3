import weakref
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from .tap import tensors_of


class Watch:
    """A forward hook that tells whether what modules have returned is finite.

    In one process it asks the device only if asked itself, and keeps no tensor alive. Where it
    must be known at once it raises: SimOTA computes binary cross entropies, and one of values that
    are not numbers ends a CUDA process.

    In several processes a loss that fails on one leaves the others waiting for what it would have
    reduced. There the modules' outputs go on with 0 in place of what is not finite, so that each
    loss takes all its steps, and `marked` makes its terms NaN.

    Args:
        network: The network whose children it watches in training.
    """

    def __init__(self, network: nn.Module) -> None:
        self.clear()
        for child in network.children():
            child.register_forward_hook(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> 'Watch':
        copied = type(self).__new__(type(self))
        copied.clear()
        return copied

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Note an output, as torch calls a forward hook; return what replaces it, if anything."""
        if not module.training:
            return None
        tensors = list(tensors_of(output))
        if get_world_size() > 1:
            self.checks += [tensor.detach().isfinite().all() for tensor in tensors]
            return _finite(output)
        self.outputs += [weakref.ref(tensor) for tensor in tensors]
        at_once = type(getattr(module, 'assigner', None)).__name__ == 'SimOTAAssigner'
        if at_once and not all_finite([t for t in tensors if t.is_cuda]):
            raise FloatingPointError('outputs that are not finite cannot be assigned')
        return None

    def marked(self, losses: dict[str, Any]) -> dict[str, Any]:
        """Return a network's loss terms, NaN if an output had to be replaced since `clear`."""
        if not self.checks:
            return losses
        device = self.checks[0].device
        whole = torch.stack([each.to(device) for each in self.checks]).all()
        factor = torch.where(whole, 1.0, float('nan'))
        return {
            name: [term * factor for term in value] if isinstance(value, list) else value * factor
            for name, value in losses.items()
        }

    def finite(self) -> bool:
        """Whether all outputs since `clear` that are still in use are finite."""
        alive = (reference() for reference in self.outputs)
        return all_finite([tensor for tensor in alive if tensor is not None])

    def clear(self) -> None:
        """Forget the outputs so far."""
        self.outputs: list[weakref.ref[Tensor]] = []
        self.checks: list[Tensor] = []


def _finite(output: Any) -> Any:
    """Return a module's output with 0 in place of values that are not finite."""
    if isinstance(output, Tensor) and output.is_floating_point():
        return output.nan_to_num(0.0, 0.0, 0.0)
    if isinstance(output, tuple) and hasattr(output, '_fields'):
        return type(output)(*map(_finite, output))
    if isinstance(output, (list, tuple)):
        return type(output)(map(_finite, output))
    if isinstance(output, dict):
        return {key: _finite(value) for key, value in output.items()}
    return output


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all values of all tensors are finite; the device is asked once, not for each."""
    if not tensors:
        return True
    device = tensors[0].device
    return bool(torch.stack([each.isfinite().all().to(device) for each in tensors]).all())
