"""Which levels of feature pyramids belong together."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmkd.utils.errors import ConfigError

from .tap import TapValue


def levels_of(value: TapValue) -> list[Any]:
    """Return a tap's levels; a single value is the only one."""
    return value if isinstance(value, list) else [value]


def paired_levels(
    target: TapValue, sources: Sequence[TapValue], key: str, sides: str, in_order: bool
) -> list[tuple[int, ...]]:
    """Return which of the target's levels learns from which of each source's.

    Levels of unlike pyramids are paired by stride (mmkd's choice): on the same image, maps whose
    sides differ by less than a factor of sqrt(2). Levels without a partner are left out.

    Args:
        target: Value of the target's tap on an image.
        sources: Values of the sources' taps on the same image.
        key: The link's, for messages.
        sides: The two sides in words, for messages.
        in_order: Pair equal numbers of levels one by one, whatever their strides.

    Returns:
        Rows of indices: the target's level, and one of each source's.

    Raises:
        ConfigError: If one side has levels and the other has not, or if no strides agree.
    """
    values = [levels_of(value) for value in (target, *sources)]
    for level in (level for levels in values for level in levels):
        if isinstance(level, (list, tuple)):
            raise ConfigError(
                f'{key}: a tap gives lists of lists; name one of them by [i], as in '
                f"'bbox_head[0]': {sides}"
            )
    counts = {len(levels) for levels in values}
    several = {isinstance(value, list) for value in (target, *sources)}
    ordered = [(i,) * len(values) for i in range(len(values[0]))]
    alike = len(counts) == 1 and all(_same_stride(*row) for row in zip(*values))
    if several == {False} or alike or (len(counts) == 1 and in_order):
        return ordered
    if several != {True} or not all(_is_map(level) for levels in values for level in levels):
        raise ConfigError(f'{key}: the two sides have different numbers of levels: {sides}')
    rows: list[tuple[int, ...]] = []
    for index, level in enumerate(values[0]):
        row = [index]
        for column, levels in enumerate(values[1:], 1):
            free = set(range(len(levels))) - {other[column] for other in rows}
            row += [i for i in sorted(free) if _same_stride(level, levels[i])][:1]
        if len(row) == len(values):
            rows.append(tuple(row))
    if not rows:
        raise ConfigError(f'{key}: no level has the stride of one of the other side: {sides}')
    return rows


def _is_map(level: Any) -> bool:
    return isinstance(level, Tensor) and level.dim() == 4


def _same_stride(*levels: Any) -> bool:
    """Whether maps of one image are of about one size; other values are not compared."""
    if not all(_is_map(level) for level in levels):
        return True
    first = levels[0].shape[-2:]
    return all(
        abs(math.log2(own / other)) < 0.5
        for level in levels[1:]
        for own, other in zip(first, level.shape[-2:])
    )
