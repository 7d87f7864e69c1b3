from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.models.combiners.base import Combiner
from mmkd.models.combiners.kdcl import cross_entropy
from mmkd.models.combiners.mean import stack_sources
from mmkd.models.connectors.base import WithTerms
from mmkd.models.utils.labels import labels_like
from mmkd.models.utils.mask import weighted_mean
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer


@MODELS.register_module()
class Gate(Combiner):
    """A gated sum of the sources' logits, whose gate learns from the labels.

    After ONE, Lan et al., "Knowledge Distillation by On-the-Fly Native Ensemble" (arXiv
    1806.04606): z = sum_i g_i z_i, and the cross entropy of z with the labels trains the gate (the
    term `gate`, with weight 1). ONE's branches share a trunk, whose features the gate reads; peers
    share none, so each source gets a score by one small network that reads its logits, averaged
    over positions, and g is the softmax of the scores (mmkd's choice; any number of sources). The
    teacher z is detached: the link's loss does not reach the gate.

    Args:
        out_channels: The sources' classes; filled in by the link.
        hidden: Size of the hidden layer.

    Raises:
        ConfigError: For wrong arguments, batches without labels, and sources that differ in shape.
    """

    takes = 'tensors'

    def __init__(self, out_channels: int, hidden: int = 32) -> None:
        super().__init__()
        check_integer(hidden, 'hidden')
        self.score = nn.Sequential(
            nn.Linear(out_channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 1)
        )

    def forward(
        self, sources: Sequence[Tensor], target: Tensor, data_samples: Sequence[Any] | None
    ) -> WithTerms:
        """Combine the sources.

        Args:
            sources: Logits (N, C) or (N, C, H, W), brought to the target's size.
            target: Logits (N, C) or (N, C, H, W).
            data_samples: One per image, with its label or label map.

        Returns:
            Logits in float32, and the term `gate`.
        """
        logits = stack_sources(sources, target).detach()
        labels = labels_like(data_samples, logits[0])
        with torch.autocast(logits.device.type, enabled=False):
            pooled = logits.flatten(3).mean(3) if logits.dim() > 3 else logits
            gate = self.score(pooled).softmax(0)
            combined = (gate.view(*gate.shape, *[1] * (logits.dim() - 3)) * logits).sum(0)
            counts = labels.ge(0).to(combined.dtype)
            loss = weighted_mean(cross_entropy(combined, labels), counts)
        return WithTerms(combined.detach(), dict(gate=loss))
