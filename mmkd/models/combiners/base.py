from collections.abc import Callable
from typing import Any

from torch import nn


class Combiner(nn.Module):
    """Base class of what makes one value of a link's several sources: its `combine`.

    A subclass implements `forward(self, sources, target, ...)`, registered in
    `mmkd.registry.MODELS`: `sources` is the list of the values that the sources' taps read, in the
    order of the link's `source`, and `target` the value of the target's tap. After them `forward`
    names what else it needs of the context that `DistillationLoss` lists. The result takes the
    source's place in connectors and loss; `WithTerms` adds loss terms. A link has one combiner for
    all levels; its weights are trained with the target's optimizer and left behind at export.

    The link fills in `in_channels` (of the target's value) and `out_channels` (of the first
    source's) where the constructor names them.

    Examples:
        >>> import torch
        >>> from mmkd.models.combiners import Combiner
        >>> from mmkd.registry import MODELS
        >>> @MODELS.register_module()
        ... class Median(Combiner):
        ...     def forward(self, sources, target):
        ...         return torch.stack(sources).median(0).values
        >>> sources = [torch.tensor([value]) for value in (1.0, 2.0, 9.0)]
        >>> MODELS.build(dict(type='mmkd.Median'))(sources, target=torch.zeros(1))
        tensor([2.])
    """

    forward: Callable[..., Any]
