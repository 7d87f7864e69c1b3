from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.utils.errors import ConfigError


def labels_like(data_samples: Sequence[Any] | None, logits: Tensor) -> Tensor:
    """The ground-truth class at each of the logits' positions.

    Label maps are brought to the logits' size by nearest neighbors. The label of an image whose
    labels were mixed (`gt_score`) is the class with the highest share.

    Args:
        data_samples: One per image, with `gt_sem_seg` or `gt_label`. None is allowed only where
            gradients are disabled (the build's probe has no labels); all labels are then 0.
        logits: (N, C) or (N, C, H, W). One channel stands for the classes 0 and 1.

    Returns:
        (N,) or (N, H, W), integers; -1 where there is no class (ignored pixels).

    Raises:
        ConfigError: If there are no labels, or more than one per position.
    """
    size = logits.shape[:1] + logits.shape[2:]
    if data_samples is None:
        if torch.is_grad_enabled():
            raise ConfigError("no labels in this batch: the link needs on='labeled'")
        return logits.new_zeros(size, dtype=torch.long)
    labels = torch.stack([_label_of(sample, logits) for sample in data_samples]).to(logits.device)
    if labels.dim() == 3 and logits.dim() == 4:
        resized = F.interpolate(labels.unsqueeze(1).double(), size=logits.shape[2:], mode='nearest')
        labels = resized.squeeze(1).long()
    if labels.shape != size:
        raise ConfigError(
            f'labels of shape {tuple(labels.shape)} do not belong to logits of shape '
            f'{tuple(logits.shape)}'
        )
    return torch.where((labels >= 0) & (labels < max(2, logits.shape[1])), labels, -1)


def _label_of(sample: Any, logits: Tensor) -> Tensor:
    """One image's label: a scalar or (H, W)."""
    if 'gt_sem_seg' in sample:
        return sample.gt_sem_seg.data.squeeze(0).long()
    scored = 'gt_score' in sample and sample.gt_score.numel() == logits.shape[1]
    if scored and ('gt_label' not in sample or sample.gt_label.numel() == 1):
        return sample.gt_score.argmax()  # of mixed labels the larger part
    if 'gt_label' not in sample:
        raise ConfigError(
            f'{type(sample).__name__} has neither gt_sem_seg nor gt_label: this loss or combiner '
            'needs one class per image or per pixel'
        )
    if sample.gt_label.numel() != 1:
        raise ConfigError(
            f'one label per image is needed, got {sample.gt_label.tolist()} (a multi-label data '
            'set)'
        )
    return sample.gt_label.reshape(())
