"""What several links or members derive of one tensor, computed once."""

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar('T')
# torch 2.3 made it public; before, dynamo knows the private one.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling


def once(tensor: Tensor, key: Hashable, make: Callable[[], T]) -> T:
    """Return `make()`, computed once a step for all that ask it of the same tensor.

    The result lives as long as the tensor, which is a step for what a tap reads. Nothing is kept of
    a tensor that a gradient flows through, nor of one that was changed in place since; of one that
    was made in inference mode, which does not tell, neither.

    Args:
        tensor: What the result is derived of: a detached source, or images.
        key: What the result is, with all else that it depends on.
        make: Computes it.
    """
    if tensor.requires_grad or is_compiling() or tensor.is_inference():
        return make()
    kept = tensor.__dict__.setdefault('_mmkd_once', {})
    key = key, tensor._version
    if key not in kept:
        kept[key] = make()
    return kept[key]
