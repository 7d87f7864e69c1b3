"""A head's own loss for another truth, of the outputs of one forward pass."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.utils.errors import ConfigError

TRUTH = ('batch_gt_instances', 'batch_img_metas')


def check_takes_truth(head: Any) -> None:
    """Raise a ConfigError unless `head` has a loss of its outputs, boxes and labels alone."""
    name = type(head).__name__
    parameters = inspect.signature(getattr(head, 'loss_by_feat', lambda: None)).parameters
    asked = (
        [
            key
            for key, parameter in list(parameters.items())[list(parameters).index(TRUTH[1]) + 1 :]
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]
        if set(TRUTH) <= set(parameters)
        else [*TRUTH]
    )
    if asked:
        raise ConfigError(
            f"{name} cannot learn from another detector's boxes: it does not compute its loss by "
            f'loss_by_feat(outputs, {", ".join(TRUTH)}) alone (it asks for {", ".join(asked)}). '
            "What works: a source with the same grid, or its features ('feature')"
        )


def of_images(value: Any, images: Sequence[int], total: int, dim: int = 0) -> Any:
    """Return the part of nested outputs that belongs to some images.

    Args:
        value: Tensors with an entry per image along `dim`, in nested tuples and lists.
        images: Indices.
        total: Number of images; all: the value itself.
        dim: Where tensors have their images.
    """
    if len(images) == total:
        return value
    if isinstance(value, (tuple, list)):
        return type(value)([of_images(item, images, total, dim) for item in value])
    if not isinstance(value, Tensor):
        return value
    return value.index_select(dim, torch.as_tensor(list(images), device=value.device))


def sum_of_losses(terms: Mapping[str, Any], masks: bool = False) -> Tensor:
    """Sum a head's loss terms, as mmengine does.

    Args:
        terms: Losses, and figures that are none.
        masks: Whether those of masks count.
    """
    values = [
        torch.as_tensor(item).mean()
        for key, value in terms.items()
        if 'loss' in key and (masks or 'mask' not in key)
        for item in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return torch.stack(values).sum()
