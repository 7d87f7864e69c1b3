from collections.abc import Callable
from typing import Any

from torch import nn


class Combiner(nn.Module):
    """Base class of what makes one value of a link's several sources: its `combine`.

    A subclass implements `forward(self, sources, target, ...)`, registered in
    `mmkd.registry.MODELS`: `sources` is the list of the values that the sources' taps read, in the
    order of the link's `source`, and `target` the value of the target's tap. After them `forward`
    names what else it needs of the context that `DistillationLoss` lists. The result takes the
    source's place in connectors and loss; `WithTerms` adds loss terms. There is one combiner per
    level; its weights are trained with the target's optimizer and left behind at export.

    Example:
        >>> import torch
        >>> from mmkd.models.combiners import Combiner
        >>> from mmkd.registry import MODELS
        >>> @MODELS.register_module()
        ... class Median(Combiner):
        ...     def forward(self, sources, target):
        ...         return torch.stack(sources).median(0).values
        >>> MODELS.build(dict(type='mmkd.Median'))([torch.tensor([v]) for v in (1.0, 2.0, 9.0)], None)
        tensor([2.])
    """

    forward: Callable[..., Any]
