"""Try a link at the build, on the values of a probe image: what cannot work is said there."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.utils.errors import ConfigError

from .context import UNFIT, LinkContext
from .levels import levels_of
from .tap import TapValue, describe

if TYPE_CHECKING:
    from .link import Link


def try_link(
    link: 'Link', target: TapValue, sources: list[TapValue], probe: LinkContext
) -> list[str]:
    """Compute a link once; return the keys of its terms.

    Args:
        link: The link, but for its `terms`.
        target: Value of the target's tap on a probe image.
        sources: Values of the sources' taps.
        probe: Context of the probe.

    Raises:
        ConfigError: If its loss cannot compare the two sides or gives no scalars, or if target or
            combiner would learn nothing from it.
    """
    with torch.no_grad():
        link.eval()
        try:
            found = link(target, sources, probe)
        except UNFIT as error:
            raise ConfigError(
                f'{link.key}: the loss cannot compare {link.sides}: '
                f'{_why_unfit(link, error, target, probe.task)}{_pooled(target, sources)}'
            ) from error
        link.train()
    values = {**found.losses, **found.extra}
    if not values:
        raise ConfigError(f'{link.key}.loss: {link.spec.loss} gives no term')
    for value in values.values():
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ConfigError(
                f'{link.key}.loss: {link.spec.loss} gives {describe(value)}, expected a '
                'scalar, or a dict of scalars'
            )
    link.check_signs(found.losses)
    _check_target_learns(link, target, sources, probe)
    if not found.extra:  # what it adds it learns from
        _check_combiner_learns(link, target, sources, probe)
    return list(values)


def _check_target_learns(
    link: 'Link', target: TapValue, sources: list[TapValue], probe: LinkContext
) -> None:
    """As `Link.check_learns`, for what can be computed before the training."""
    if not all(isinstance(level, Tensor) for level in levels_of(target)):
        return
    link.eval()
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            found = link(_learning(target), sources, probe)
    except UNFIT:
        return  # some ask for labels, or to be fitted first, where a gradient is to be had
    finally:
        link.train()
    link.check_learns(found)


def _learning(value: TapValue) -> TapValue:
    """Return a tap's value with its tensors as a training has them: with a gradient."""
    if isinstance(value, list):
        return [_learning(level) for level in value]
    # No leaf, which a loss could not change in place.
    return value.detach().requires_grad_().clone() if isinstance(value, Tensor) else value


def _check_combiner_learns(
    link: 'Link', target: TapValue, sources: list[TapValue], probe: LinkContext
) -> None:
    own = [] if link.combiner is None else list(link.combiner.parameters())
    if not own:
        return
    with torch.enable_grad():
        found = link(target, sources, probe)
        total = torch.stack(list(found.losses.values())).sum()
    reached = total.requires_grad and any(
        grad is not None for grad in torch.autograd.grad(total, own, allow_unused=True)
    )
    if not reached:
        raise ConfigError(
            f'{link.key}.combine: {type(link.combiner).__name__} would learn nothing: '
            f'{type(link.loss).__name__} cuts its source out of the graph; take a loss that '
            'does not, such as KLDivergence, or a combiner without weights'
        )


def _why_unfit(link: 'Link', error: Exception, target: TapValue, task: Any) -> str:
    """Return an error's text; where the loss is one of other values, also which takes them."""
    own = task.default_loss(link.source_tap.split('[')[0])
    plain = all(isinstance(level, Tensor) for level in levels_of(target))
    if plain and isinstance(error, AttributeError) and isinstance(error.obj, Tensor):
        own, taken = own or task.default_loss('feature'), 'tensors'
    elif plain:
        return str(error)
    else:
        taken = 'such predictions'
    name = type(link.loss).__name__
    if own is None or own['type'] == name:
        return str(error)
    return f'{name} cannot take {taken}, {own["type"]} (the default) can: {error}'


def _pooled(target: TapValue, sources: list[TapValue]) -> str:
    """Return what works between a map and the vector of an image, nothing for other values."""
    values = [level for value in (target, *sources) for level in levels_of(value)]
    if {v.dim() if isinstance(v, Tensor) else None for v in values} != {2, 4}:
        return ''
    side = 'target_tap' if levels_of(target)[0].dim() == 4 else 'source_tap'
    return (
        f"; a map and a vector: link the pooled map ({side}='neck'), or take a loss that "
        "compares images with each other (loss=dict(type='SimilarityPreserving') or "
        "'RelationalKD')"
    )
