"""Checks of what a loss gets to compare."""

from torch import Tensor

from mmkd.utils.errors import ConfigError


def check_same_shape(target: Tensor, source: Tensor, what: str = 'features') -> None:
    """Raise a ConfigError unless both sides have one shape: nothing is broadcast."""
    if target.shape != source.shape:
        raise ConfigError(
            f'{what} differ in shape: target {tuple(target.shape)}, source {tuple(source.shape)}'
        )


def check_maps(target: Tensor, source: Tensor) -> None:
    """Raise a ConfigError unless both sides are maps (N, C, H, W)."""
    if target.dim() != 4 or source.dim() != 4:
        raise ConfigError(
            f'maps (N, C, H, W) are compared, got target {tuple(target.shape)} and source '
            f'{tuple(source.shape)}'
        )
