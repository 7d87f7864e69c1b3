from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.combiners.base import Combiner
from mmkd.models.combiners.mean import stack_sources
from mmkd.models.utils.labels import labels_like
from mmkd.registry import MODELS


@MODELS.register_module()
class MinLogit(Combiner):
    """The least logit of each class among the sources, relative to the label's.

    KDCL-MinLogit, Guo et al., "Online Knowledge Distillation via Collaborative Learning" (CVPR
    2020): with y the label, z_k = min_i (z_ik - z_iy), so that z_y is 0 and every other class gets
    the least that any source gives it: a teacher that is wrong only where all sources are. Of a
    single logit (classes 0 and 1) it is the sources' highest for label 1 and their lowest for 0.
    Positions without a label have the mean of the logits.

    Raises:
        ConfigError: For batches without labels, and sources that differ in shape.
    """

    takes = 'tensors'

    def forward(
        self, sources: Sequence[Tensor], target: Tensor, data_samples: Sequence[Any] | None
    ) -> Tensor:
        """Combine the sources.

        Args:
            sources: Logits (N, C) or (N, C, H, W), brought to the target's size.
            target: Logits (N, C) or (N, C, H, W).
            data_samples: One per image, with its label or label map.

        Returns:
            Logits in float32.
        """
        logits = stack_sources(sources, target)
        labels = labels_like(data_samples, logits[0]).unsqueeze(1)
        if logits.shape[2] == 1:
            least = torch.where(labels == 1, logits.amax(0), logits.amin(0))
        else:
            index = labels.clamp(min=0).expand(len(logits), *labels.shape)
            least = (logits - logits.gather(2, index)).amin(0)
        return torch.where(labels >= 0, least, logits.mean(0))


@MODELS.register_module()
class LowestLoss(Combiner):
    """At each position the logits of the source whose cross entropy with the label is lowest.

    KDCL-Naive, Guo et al., "Online Knowledge Distillation via Collaborative Learning" (CVPR 2020),
    for each position of a map where there are several. Positions without a label have the mean of
    the logits.

    Raises:
        ConfigError: For batches without labels, and sources that differ in shape.
    """

    takes = 'tensors'

    def forward(
        self, sources: Sequence[Tensor], target: Tensor, data_samples: Sequence[Any] | None
    ) -> Tensor:
        """Combine the sources.

        Args:
            sources: Logits (N, C) or (N, C, H, W), brought to the target's size.
            target: Logits (N, C) or (N, C, H, W).
            data_samples: One per image, with its label or label map.

        Returns:
            Logits in float32.
        """
        logits = stack_sources(sources, target)
        labels = labels_like(data_samples, logits[0])
        losses = torch.stack([cross_entropy(z, labels) for z in logits])
        best = losses.argmin(0, keepdim=True).unsqueeze(2).expand_as(logits[:1])
        chosen = logits.gather(0, best).squeeze(0)
        return torch.where(labels.unsqueeze(1) >= 0, chosen, logits.mean(0))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy at each position, 0 where the label is -1.

    Args:
        logits: (N, C, ...); one channel stands for the classes 0 and 1.
        labels: (N, ...).
    """
    if logits.shape[1] == 1:  # the two classes' logits
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return F.cross_entropy(logits, labels, ignore_index=-1, reduction='none')
