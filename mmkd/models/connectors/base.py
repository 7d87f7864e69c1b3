from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn


class WithTerms(NamedTuple):
    """What a connector or a combiner returns if it adds loss terms of its own.

    Attributes:
        value: What goes on to the loss (or to the next connector).
        terms: Scalars by name; each becomes `target/loss_<link>_<name>[source:tap]`, with weight 1
            whatever the link's weight.
    """

    value: Any
    terms: dict[str, Tensor]


class Connector(nn.Module):
    """Base class of the modules that make the two sides of a link comparable.

    A subclass implements `forward(self, x, like, ...)`, registered in `mmkd.registry.MODELS`: `x`
    is the value of its own side (the target's for `connector`, the source's for
    `source_connector`), `like` that of the other. After them `forward` names what else it needs of
    the context that `DistillationLoss` lists. The result is the new value, or `WithTerms`. There is
    one connector per level; its weights are trained with the target's optimizer and left behind at
    export.

    The link fills in `in_channels` (of `x`) and `out_channels` (of `like`) where the constructor
    names them.

    A connector that has to be fitted before the training starts, on a frozen source, sets
    `fits_first`; a hook then calls `learn(True)`, minimizes `fit_loss` over the training set, sets
    `fitted = True` and calls `learn(False)`.

    Attributes:
        fits_first: Whether it must be fitted before the training, on a source that does not change.
        fitted: Whether that is done, also by a run that was resumed; True where nothing is to be
            fitted.

    Examples:
        >>> import torch
        >>> from mmkd.models.connectors import Connector
        >>> from mmkd.registry import MODELS
        >>> @MODELS.register_module()
        ... class Projector(Connector):
        ...     def __init__(self, in_channels, out_channels):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(in_channels, out_channels)
        ...
        ...     def forward(self, x, like):
        ...         return self.linear(x)
        >>> projector = MODELS.build(dict(type='mmkd.Projector', in_channels=3, out_channels=5))
        >>> projector(torch.zeros(2, 3), like=torch.zeros(2, 5)).shape
        torch.Size([2, 5])
    """

    forward: Callable[..., Any]
    fits_first: bool = False
    fitted: bool = True

    def learn(self, mode: bool) -> None:
        """Start (True) or end (False) fitting; its weights are fixed afterwards."""
        raise NotImplementedError(f'{type(self).__name__} is not fitted before the training')

    def fit_loss(self, x: Tensor) -> Tensor:
        """Return the scalar that fitting minimizes, for one batch of the source's values."""
        raise NotImplementedError(f'{type(self).__name__} is not fitted before the training')
