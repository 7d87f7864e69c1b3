"""Bend a link's gradient away from opposing the task's (PCGrad, Yu et al., arXiv 2001.06782)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mmkd.utils.errors import ConfigError

from .levels import levels_of
from .tap import Reading, TapValue


def separate(value: TapValue) -> TapValue:
    """Return a tap's value as tensors of its own, on which a link's gradient can be bent."""
    return [x.view_as(x) for x in value] if isinstance(value, list) else value.view_as(value)


def bend(key: str, value: TapValue, reading: Reading, task: Sequence[Tensor]) -> None:
    """Take out of a link's gradient what points against the task's (PCGrad, eq. 1).

    Args:
        key: The link's, for messages.
        value: What the link reads, from `separate`.
        reading: What the tap read.
        task: The task's gradient at those tensors of `reading.raw` that need one.

    Raises:
        ConfigError: For a tap whose value is not what its module returned.
    """
    wanted = [tensor for tensor in reading.raw if tensor.requires_grad]
    gradients = {id(tensor): gradient for tensor, gradient in zip(wanted, task)}
    for own, tapped in zip(levels_of(value), levels_of(reading.value)):
        if not own.requires_grad:
            continue
        if id(tapped) not in gradients:
            raise ConfigError(
                f"{key}.guard: 'project' needs a tap whose value is what its module returned; "
                "use 'mute'"
            )
        own.register_hook(partial(_bent, task=gradients[id(tapped)]))


def _bent(grad: Tensor, task: Tensor) -> Tensor:
    own, task = grad.float(), task.float()  # squares leave the range of float16
    share = (own * task).sum() / task.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
    return (own - share.clamp(max=0) * task).to(grad.dtype)
