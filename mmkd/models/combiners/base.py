from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mmkd.utils.errors import ConfigError


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

    Attributes:
        takes: `tensors`, `dense` (tensors, or predictions of dense heads) or `anything`; the link
            refuses other values before it builds the combiner.

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

    takes: ClassVar[str] = 'anything'
    forward: Callable[..., Any]

    @classmethod
    def check_values(cls, sources: Sequence[Any], target: Any) -> None:
        """Raise a ConfigError for values that it does not take.

        Args:
            sources: The sources' values.
            target: The target's value.
        """
        tensors = all(isinstance(value, Tensor) for value in (*sources, target))
        dense = all(hasattr(source, 'obj_logits') for source in sources)
        if cls.takes == 'anything' or tensors or (cls.takes == 'dense' and dense):
            return
        expected = 'tensors' + (', or predictions of dense heads' if cls.takes == 'dense' else '')
        kinds = ', '.join(type(value).__name__ for value in sources)
        raise ConfigError(
            f"{cls.__name__} takes {expected}, got {kinds} for the target's "
            f'{type(target).__name__}; what works for detectors: a link in model.links for each '
            'source, or one without `combine`, for which DetectionLoss fuses the boxes of all'
        )
