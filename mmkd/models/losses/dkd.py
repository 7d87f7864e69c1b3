from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.labels import labels_like
from mmkd.models.utils.logits import NOWHERE, bernoulli_kl, categorical_kl, check_tau, not_negative
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.shapes import check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import check_number


@MODELS.register_module()
class DKD(DistillationLoss):
    """Decoupled distillation: the label's probability and the other classes' relations apart.

    Zhao et al., "Decoupled Knowledge Distillation" (arXiv 2203.08679). With the softmax of logits
    divided by tau, p the label's probability and q the distribution over the other classes alone,

        loss = tau^2 (alpha KL(p_s || p_t) + beta KL(q_s || q_t))

    averaged over images and positions. The plain divergence weights the second part by 1 - p_s,
    which a confident source makes vanish. The paper warms up linearly over the first 20 of 240
    epochs: give the link such a schedule. Two classes have one other class and hence no second
    part; a single logit is the two classes 0 and 1.

    Labels are `gt_label` (one per image) or `gt_sem_seg` (at the logits' size by nearest
    neighbors); positions without a class do not count.

    Args:
        alpha: Factor of the label's part.
        beta: Factor of the other classes' part.
        tau: Temperature.

    Raises:
        ConfigError: For wrong arguments, logits whose shapes differ, and batches without labels.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, tau: float = 4.0) -> None:
        super().__init__()
        check_number(alpha, 'alpha')
        check_number(beta, 'beta')
        self.alpha, self.beta, self.tau = alpha, beta, check_tau(tau)

    def forward(
        self,
        target: Tensor,
        source: Tensor,
        data_samples: Sequence[Any] | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Compare logits.

        Args:
            target: (N, C) or (N, C, H, W).
            source: Of the same shape.
            data_samples: One per image, with its label or label map.
            mask: Which positions of maps count, see `apply_mask`.

        Returns:
            A scalar.
        """
        check_same_shape(target, source, 'logits')
        labels = labels_like(data_samples, target)
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            target, source = target / self.tau, source / self.tau
            weight = labels.ge(0).float() * (1 if weight is None else weight)
            value = self._divergence(target, source, labels.clamp(min=0).unsqueeze(1))
            return not_negative(weighted_mean(value, weight)) * self.tau**2

    def _divergence(self, target: Tensor, source: Tensor, labels: Tensor) -> Tensor:
        if target.shape[1] == 1:  # which of the two classes is the label's leaves the divergence
            return self.alpha * bernoulli_kl(target, source).squeeze(1)
        others = [x.scatter(1, labels, NOWHERE) for x in (target, source)]
        # The logit of the label's probability: its own logit against those of all others.
        own = [x.gather(1, labels) - o.logsumexp(1, True) for x, o in zip((target, source), others)]
        value = self.alpha * bernoulli_kl(*own).squeeze(1)
        if target.shape[1] == 2:
            return value
        return value + self.beta * categorical_kl(others[0], others[1])
