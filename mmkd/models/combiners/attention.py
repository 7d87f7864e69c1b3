from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkd.models.combiners.base import Combiner
from mmkd.models.combiners.mean import log_probabilities, logits_of, stack_sources
from mmkd.models.utils.logits import check_mode, check_tau, resolve_mode
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer


@MODELS.register_module()
class Attention(Combiner):
    """A mean of the sources' probabilities that each target weights by its own attention.

    OKDDip, Chen et al., "Online Knowledge Distillation with Diverse Peers" (arXiv 1912.00350): with
    learned projections L and E of target a and sources b,

        alpha_ab = softmax over b of L(h_a) . E(h_b),   p = sum_b alpha_ab softmax(z_b / tau)

    The attention stays in the graph and is learned by the link's loss alone. h are the paper's
    features; here the tapped logits themselves, averaged over positions (mmkd's choice). The result
    is the logits whose probabilities at `tau` are p, as of `MeanProbability`.

    Args:
        in_channels: The target's classes; filled in by the link.
        out_channels: The sources' classes; filled in by the link.
        embedding: Size of the projections.
        tau: Temperature; set it to the loss's.
        mode: `softmax`, `sigmoid` (independent classes), or `auto`: `sigmoid` for one class,
            and in links where an image may have several labels.

    Raises:
        ConfigError: For wrong arguments, and sources that differ in shape.
    """

    takes = 'tensors'

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int = 32,
        tau: float = 1.0,
        mode: str = 'auto',
    ) -> None:
        super().__init__()
        check_integer(embedding, 'embedding')
        self.tau, self.mode = check_tau(tau), check_mode(mode)
        self.of_target = nn.Linear(in_channels, embedding)
        self.of_source = nn.Linear(out_channels, embedding)

    def forward(self, sources: Sequence[Tensor], target: Tensor) -> Tensor:
        """Combine the sources.

        Args:
            sources: Logits (N, C) or (N, C, H, W), brought to the target's size.
            target: Logits (N, C) or (N, C, H, W).

        Returns:
            Logits in float32.
        """
        logits = stack_sources(sources, target)
        mode = resolve_mode(self.mode, logits.shape[2])
        with torch.autocast(logits.device.type, enabled=False):
            query = self.of_target(_pooled(target.float()))
            keys = torch.stack([self.of_source(_pooled(z)) for z in logits])
            log_attention = (query * keys).sum(-1).log_softmax(0)
            log_attention = log_attention.view(*log_attention.shape, *[1] * (logits.dim() - 2))
            log_p = log_probabilities(logits / self.tau, mode)
            return logits_of([(x + log_attention).logsumexp(0) for x in log_p]) * self.tau


def _pooled(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2) if x.dim() > 2 else x
