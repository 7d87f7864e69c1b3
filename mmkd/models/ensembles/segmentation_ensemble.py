import math
from collections.abc import Sequence
from functools import reduce

import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor

from mmkd.evaluation.label_areas import label_areas
from mmkd.registry import MODELS
from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.samples import shallow_copy

from .base import Ensemble


@MODELS.register_module()
class SegmentationEnsemble(Ensemble):
    """Mean of segmenters' probabilities at each pixel, or of their logits.

    Args:
        fusion: `probability` or `logits`.
        threshold: A pixel of a network with one output channel is foreground above it. The
            distiller fills in that of the first member it fuses. Default: 0.3, as in mmseg's heads.
    """

    def __init__(self, fusion: str = 'probability', threshold: float | None = None) -> None:
        super().__init__()
        self.fusion = choose(fusion, ('probability', 'logits'), 'fusion')
        if threshold is not None:
            check_number(threshold, 'threshold', 0, 1)
        self.threshold = 0.3 if threshold is None else threshold

    def forward(self, scores: Sequence[Tensor]) -> Tensor:
        """Fuse one image's scores.

        Args:
            scores: One per member, as mmseg's `predict` leaves them: logits (C, H, W), or the
                foreground's probability (1, H, W) of a network with one output channel.

        Returns:
            Fused scores in the same form: log-probabilities (C, H, W) or a probability (1, H, W).

        Raises:
            ConfigError: If the members differ in channels.
        """
        channels = {score.shape[0] for score in scores}
        if len(channels) > 1:
            raise ConfigError(
                'model.ensemble: members with different numbers of output channels: '
                f'{sorted(channels)}'
            )
        if channels != {1} and self.fusion == 'probability':
            each = [score.float().log_softmax(0) for score in scores]
            return reduce(torch.logaddexp, each) - math.log(len(each))
        stacked = torch.stack([score.float() for score in scores])
        if channels == {1}:
            if self.fusion == 'probability':
                return stacked.mean(0)
            return stacked.logit(eps=1e-6).mean(0).sigmoid()
        return stacked.mean(0).log_softmax(0)

    def fuse_samples(self, samples: Sequence[BaseDataElement]) -> BaseDataElement:
        """Fuse the members' `seg_logits`, and make `pred_sem_seg` of them."""
        scores = self([sample.seg_logits.data for sample in samples])
        if scores.shape[0] == 1:
            classes = (scores > self.threshold).to(scores)
        elif scores.shape[0] == 2:
            classes = (scores[1:] > scores[:1]).long()  # argmax over so few is slow on CPUs
        else:
            classes = scores.max(0, keepdim=True).indices
        fused = shallow_copy(samples[0])
        fused.set_data(
            dict(seg_logits=PixelData(data=scores), pred_sem_seg=PixelData(data=classes))
        )
        return fused

    def agreement(self, one: BaseDataElement, other: BaseDataElement) -> float:
        """The two maps' IoU, the mean over the classes that either has."""
        first, second = (sample.pred_sem_seg.data for sample in (one, other))
        classes = int(torch.maximum(first.max(), second.max())) + 1
        both, either, _, _ = label_areas(first, second, classes, ignore_index=-1)
        return float((both / either)[either > 0].mean())
