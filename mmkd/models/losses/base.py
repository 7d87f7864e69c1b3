from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from mmkd.models.utils.mask import weight_like


class DistillationLoss(nn.Module):
    """Base class of the losses of links: a distance of the target's knowledge from the source's.

    A subclass implements `forward(self, target, source, ...)`, registered in
    `mmkd.registry.MODELS`. `target` and `source` are what the taps read: tensors, one call per
    level, or `DensePrediction`s; with several sources and no combiner `source` is a list. After
    them `forward` names what else it needs; the link passes it by keyword:

    - `mask`: Tensor (N, 1, H, W) of 0 and 1, the pixels that count, or None where all do;
    - `data_samples`: list, one per image; None on unlabeled batches and in the build's probe (a
      loss that needs them has no default for it, and is refused on unlabeled images);
    - `image_metas`: list of dicts, what is known of each image (`img_shape`, ...), on any batch;
    - `progress`: float in [0, 1], the share of the training that is done;
    - `target_network`, `source_network`: the members' networks (a list for several sources);
    - `target_tap`, `source_tap`: str, the taps' names;
    - `task`: the `Task`.

    The result is a scalar, or a dict of scalars that become separate terms. It is computed in
    float32, also under autocast; it is never negative; and it depends neither on the batch size
    nor on the resolution.

    Examples:
        >>> import torch
        >>> from mmkd.models.losses import DistillationLoss
        >>> from mmkd.registry import MODELS
        >>> @MODELS.register_module()
        ... class RampedL1(DistillationLoss):
        ...     def forward(self, target, source, mask=None, progress=1.0):
        ...         distance = (target.float() - source.float()).abs()
        ...         return progress * (distance if mask is None else distance * mask).mean()
        >>> MODELS.build(dict(type='mmkd.RampedL1'))(torch.ones(2, 3), torch.zeros(2, 3))
        tensor(1.)
    """

    any_channels: ClassVar[bool] = False
    """Whether taps with different numbers of channels can be compared: `connector='auto'` then adds
    no 1x1 convolution."""

    forward: Callable[..., Tensor | dict[str, Tensor]]

    @property
    def through_tap(self) -> bool:
        """Whether the loss is computed of what the tap has read, so that its gradient is there."""
        return True

    def summed_weights(self, source: Any, mask: Tensor | None) -> list[Tensor]:
        """Return weights whose sum over all ranks `forward` needs, as far as they are known before.

        A distributed training sums those of all links at once; `total_over_ranks` then knows the
        sums of these very tensors. What is not named here is summed where it is needed.

        Args:
            source: As `forward` gets it.
            mask: Likewise; None for a loss that does not name it.
        """
        if mask is None or not isinstance(source, Tensor) or source.dim() != 4:
            return []
        return [weight_like(mask, source)]
