import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.combiners.base import Combiner
from mmkd.models.utils.logits import check_mode, check_tau, log_joint, resolve_mode
from mmkd.models.utils.once import once
from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError

if TYPE_CHECKING:
    from mmkd.tasks.detection.masks import MaskMaker
    from mmkd.tasks.detection.structures import DensePrediction


@MODELS.register_module()
class MeanProbability(Combiner):
    """Logits whose probabilities are the mean of the sources' probabilities.

    For logits z_i of n sources the result z fulfills softmax(z / tau) = mean softmax(z_i / tau), or
    the same with sigmoid: a loss with the same tau sees exactly the mean of the softened
    probabilities. Log-probabilities up to a constant, z = tau log mean softmax(z_i / tau), computed
    in log space.

    Of `DensePrediction`s (at tau 1) the mean of the joint probabilities, class times objectness: if
    all sources have an objectness o_i, o = mean o_i and each class's probability is the mean
    weighted by o_i; otherwise the result has none. Boxes are means weighted by the sources' scores;
    boxes that are not finite are left out.

    Args:
        tau: Temperature; set it to the loss's.
        mode: `softmax`, `sigmoid` (independent classes), or `auto`: `sigmoid` for one class,
            and in links where an image may have several labels.

    Raises:
        ConfigError: For wrong arguments, and sources that differ in classes or positions.

    Examples:
        >>> import torch
        >>> from mmkd.models.combiners import MeanProbability
        >>> sources = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.3, 0.7]]).log()]
        >>> MeanProbability()(sources, target=torch.zeros(1, 2)).softmax(1)
        tensor([[0.6000, 0.4000]])
    """

    takes = 'dense'

    def __init__(self, tau: float = 1.0, mode: str = 'auto') -> None:
        super().__init__()
        self.tau, self.mode = check_tau(tau), check_mode(mode)

    def forward(
        self, sources: Sequence[Any], target: 'Tensor | DensePrediction'
    ) -> 'Tensor | DensePrediction':
        """Combine the sources.

        Args:
            sources: Logits (N, C) or (N, C, H, W), brought to the target's size, or
                `DensePrediction`s on one grid.
            target: Of the same kind.

        Returns:
            Logits in float32, or a `DensePrediction`.
        """
        if not isinstance(sources[0], Tensor):
            return _mean_dense_probability(sources)
        fitted = fitted_sources(sources, target)
        mode = resolve_mode(self.mode, fitted[0].shape[1])
        with torch.autocast(fitted[0].device.type, enabled=False):
            # Of a source among many links' once.
            each = [
                once(x, ('log_p', self.tau, mode), partial(self._log_probabilities, x, mode))
                for x in fitted
            ]
            return logits_of([log_mean_exp(torch.stack(x)) for x in zip(*each)]) * self.tau

    def _log_probabilities(self, logits: Tensor, mode: str) -> list[Tensor]:
        return log_probabilities(logits / self.tau, mode, dim=1)


@MODELS.register_module()
class MeanLogits(Combiner):
    """The mean of the sources' logits, or of any tensors of one shape.

    Of `DensePrediction`s the mean of class logits, of objectness logits (all sources have them, or
    none) and of boxes weighted by the sources' scores.

    Raises:
        ConfigError: For sources that differ in classes or positions.
    """

    takes = 'dense'

    def forward(
        self, sources: Sequence[Any], target: 'Tensor | DensePrediction'
    ) -> 'Tensor | DensePrediction':
        """Combine the sources.

        Args:
            sources: Tensors (N, C) or (N, C, H, W), brought to the target's size, or
                `DensePrediction`s on one grid.
            target: Of the same kind.

        Returns:
            A tensor in float32, or a `DensePrediction`.
        """
        if isinstance(sources[0], Tensor):
            return stack_sources(sources, target).mean(0)
        check_grids(sources)
        objectness = [source.obj_logits for source in sources]
        if any(o is None for o in objectness) and any(o is not None for o in objectness):
            raise ConfigError(
                'combine: some sources have an objectness, others none; MeanProbability takes both'
            )
        return replace(
            sources[0],
            cls_logits=torch.stack([source.cls_logits.float() for source in sources]).mean(0),
            obj_logits=None
            if objectness[0] is None
            else torch.stack([o.float() for o in objectness]).mean(0),
            boxes=mean_boxes(sources),
            masks=mean_masks(sources),
        )


def stack_sources(sources: Sequence[Tensor], target: Any) -> Tensor:
    """Stack the sources' tensors in float32, maps brought to the target's size: (n, N, C, ...).

    Raises:
        ConfigError: If they differ in shape.
    """
    return torch.stack(fitted_sources(sources, target))


def fitted_sources(sources: Sequence[Tensor], target: Any) -> list[Tensor]:
    """Return the sources' tensors in float32, maps brought to the target's size.

    Raises:
        ConfigError: If they differ in shape.
    """
    if target.dim() == 4:
        sources = [resize_like(s.float(), target) if s.dim() == 4 else s for s in sources]
    if len({source.shape for source in sources}) > 1:
        shapes = ', '.join(str(tuple(source.shape)) for source in sources)
        raise ConfigError(f'combine: the sources differ in shape: {shapes}')
    return [source.float() for source in sources]


def log_probabilities(logits: Tensor, mode: str, dim: int = 2) -> list[Tensor]:
    """Log-probabilities of logits with the classes at `dim`; with `sigmoid` of yes and of no."""
    if mode == 'sigmoid':
        return [F.logsigmoid(logits), F.logsigmoid(-logits)]
    return [logits.log_softmax(dim)]


def logits_of(log_p: Sequence[Tensor]) -> Tensor:
    """The logits of what `log_probabilities` gives."""
    return log_p[0] if len(log_p) == 1 else log_p[0] - log_p[1]


def log_mean_exp(x: Tensor) -> Tensor:
    """Log of the mean of exp(x) over the first dimension."""
    return x.logsumexp(0) - math.log(len(x))


def check_grids(sources: 'Sequence[DensePrediction]') -> None:
    """Raise a ConfigError unless all predictions have the same positions and classes."""
    if len({source.cls_logits.shape for source in sources}) > 1:
        listed = ', '.join(map(str, sources))
        raise ConfigError(
            f'combine: the sources differ in positions or classes: {listed}; a link in model.links '
            'without `combine` fuses the boxes of several detectors'
        )


def mean_boxes(sources: 'Sequence[DensePrediction]') -> Tensor:
    """Means of the sources' boxes (N, P, 4) weighted by their scores, finite boxes alone."""
    boxes = torch.stack([source.boxes.float() for source in sources])
    usable = boxes.isfinite().all(-1)
    scores = torch.stack([source.scores for source in sources]) * usable
    boxes = torch.where(usable.unsqueeze(-1), boxes, 0)
    shares = scores / scores.sum(0).clamp(min=torch.finfo(scores.dtype).tiny)
    return (boxes * shares.unsqueeze(-1)).sum(0)


def mean_masks(sources: 'Sequence[DensePrediction]') -> 'MaskMaker | None':
    """Means of the masks' logits, of the first source's size; None where one draws none."""
    makers = [source.masks for source in sources if source.masks is not None]
    if len(makers) < len(sources):
        return None

    def masks(images: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        first, *others = (make(images, positions, labels).float() for make in makers)
        same = [resize_like(logits[None], first[None])[0] for logits in others]
        return torch.stack([first, *same]).mean(0)

    return masks


def _mean_dense_probability(sources: 'Sequence[DensePrediction]') -> 'DensePrediction':
    check_grids(sources)
    boxes = mean_boxes(sources)
    with torch.autocast(boxes.device.type, enabled=False):
        classes = [source.cls_logits.float() for source in sources]
        objects = [None if s.obj_logits is None else s.obj_logits.float() for s in sources]
        log_p, log_not_p = zip(*map(log_joint, classes, objects))
        yes, no = log_mean_exp(torch.stack(log_p)), log_mean_exp(torch.stack(log_not_p))
        objectness = None
        given = [o for o in objects if o is not None]
        if len(given) == len(sources):
            log_o = torch.stack([F.logsigmoid(o) for o in given])
            log_not_o = torch.stack([F.logsigmoid(-o) for o in given])
            objectness = log_mean_exp(log_o) - log_mean_exp(log_not_o)
            no = log_mean_exp(F.logsigmoid(-torch.stack(classes)) + log_o.unsqueeze(-1))
    return replace(
        sources[0],
        cls_logits=yes - no,
        obj_logits=objectness,
        boxes=boxes,
        masks=mean_masks(sources),
    )
