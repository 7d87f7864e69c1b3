import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from torch import Tensor, nn

from mmkd.utils.errors import ConfigError

# What modules raise for values that they cannot take.
UNFIT = (TypeError, ValueError, RuntimeError, AttributeError, IndexError)


@dataclass
class LinkContext:
    """What losses, connectors and combiners may ask for: their `forward` names it by keyword.

    Args:
        mask: Which positions count (`Task.valid_mask`), float (N, 1, H, W) of 0 and 1; None where
            all do, and on unlabeled images.
        data_samples: One per image, with ground truth; None on unlabeled images and at build.
        image_metas: One dict per image (`img_shape`, `batch_input_shape`, ...), on all images.
        progress: Share of the training done, in [0, 1].
        target_network: The network that learns.
        source_network: The source's network; a list where the link has several sources.
        target_tap: Name of the target's tap.
        source_tap: Name of the sources' tap.
        task: The task.
    """

    mask: Tensor | None = None
    data_samples: list[Any] | None = None
    image_metas: list[dict[str, Any]] | None = None
    progress: float = 1.0
    target_network: nn.Module | None = None
    source_network: Any = None
    target_tap: str = ''
    source_tap: str = ''
    task: Any = None

    def named(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the values called `names`."""
        return {name: getattr(self, name) for name in names}


KNOWN = tuple(field.name for field in fields(LinkContext))


@cache  # the step asks, too
def context_names(forward: Callable[..., Any], values: int, key: str) -> tuple[str, ...]:
    """Return which parts of the context a `forward` names, after its first `values` arguments.

    Raises:
        ConfigError: If a further argument without default is not part of the context.
    """
    named = []
    for place, parameter in enumerate(inspect.signature(forward).parameters.values()):
        if place < values or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.name in KNOWN:
            named.append(parameter.name)
        elif parameter.default is parameter.empty:
            raise ConfigError(
                f"{key}: its forward() asks for {parameter.name!r}, but a link's context has "
                f'{", ".join(KNOWN)}'
            )
    return tuple(named)
