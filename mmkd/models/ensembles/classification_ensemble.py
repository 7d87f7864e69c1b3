from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer, check_number, choose
from mmkd.utils.samples import shallow_copy

from .base import Ensemble


@MODELS.register_module()
class ClassificationEnsemble(Ensemble):
    """Mean of classifiers' probabilities, or of their logits.

    Args:
        multi_label: Whether classes are independent labels; the distiller fills it in.
        fusion: `probability` or `logits` (mean of log-probabilities, which differs from that of
            logits by a constant only).
        thr: Where there may be several labels, those above it are chosen.
        topk: Where there may be several labels and no `thr`, this many of the best are chosen. The
            distiller fills in both from the first member it fuses. Default: `thr=0.5`.
    """

    def __init__(
        self,
        multi_label: bool = False,
        fusion: str = 'probability',
        thr: float | None = None,
        topk: int | None = None,
    ) -> None:
        super().__init__()
        if thr is not None:
            check_number(thr, 'thr', 0, 1)
        if topk is not None:
            check_integer(topk, 'topk')
        self.multi_label = multi_label
        self.fusion = choose(fusion, ('probability', 'logits'), 'fusion')
        self.thr, self.topk = (0.5 if thr is None and topk is None else thr), topk

    def forward(self, scores: Sequence[Tensor]) -> Tensor:
        """Fuse probabilities (..., classes), one tensor per member, to one of that shape."""
        stacked = torch.stack([score.float() for score in scores])
        if self.fusion == 'probability':
            return stacked.mean(0)
        if self.multi_label:
            return stacked.logit(eps=1e-6).mean(0).sigmoid()
        return stacked.clamp(min=torch.finfo(torch.float32).tiny).log().mean(0).softmax(-1)

    def fuse_samples(self, samples: Sequence[BaseDataElement]) -> BaseDataElement:
        """Fuse the members' `pred_score` of one image, and choose the labels of the fused one."""
        return self.fuse_batch([[sample] for sample in samples])[0]

    def fuse_batch(self, samples: Sequence[Sequence[Any]]) -> list[BaseDataElement]:
        """Fuse the members' scores of all images at once."""
        scores = self([torch.stack([one.pred_score for one in own]) for own in samples])
        if not self.multi_label:
            labels = list(scores.argmax(-1, keepdim=True))
        elif self.thr is not None:
            labels = [torch.where(score >= self.thr)[0] for score in scores]
        else:
            labels = list(scores.topk(self.topk)[1])
        return [
            shallow_copy(sample).set_pred_score(score).set_pred_label(label)
            for sample, score, label in zip(samples[0], scores, labels)
        ]

    def agreement(self, one: Any, other: Any) -> float:
        """Of the labels that either chooses, the share that both do: 1 or 0 for a single label."""
        first, second = (set(sample.pred_label.tolist()) for sample in (one, other))
        return len(first & second) / len(first | second) if first | second else 1.0
