import torch
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.logits import (
    bernoulli_kl,
    check_mode,
    check_tau,
    not_negative,
    resolve_mode,
    z_score,
)
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.once import once
from mmkd.models.utils.shapes import check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class KLDivergence(DistillationLoss):
    """tau^2 KL(p_source || p_target) of softened logits, averaged over images and positions.

    Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531); between peers
    Zhang et al., "Deep Mutual Learning" (arXiv 1706.00384, eq. 5 with tau = 1). Averaging over
    positions, not only over images, is mmkd's choice: the value does not grow with resolution.

    Args:
        tau: Temperature.
        mode: `softmax` (one class per position), `sigmoid` (independent classes: the binary
            divergences are summed over them) or `auto`: `sigmoid` for logits of one class, whose
            softmax would be 1 whatever the logits, and in links where an image may have several
            labels, else `softmax`.
        dim: The dimension of the classes.
        standardize: Bring the logits of each position to mean 0 and standard deviation 1 first, so
            that only the relations between the classes are learned (Sun et al., "Logit
            Standardization in Knowledge Distillation", arXiv 2403.01427; there with tau 2 and
            weight 9). Not for `sigmoid`. Of two classes it leaves only which one is larger.

    Raises:
        ConfigError: For wrong arguments, logits whose shapes differ, and one class with `softmax`
            or `standardize`.

    Examples:
        >>> import torch
        >>> from mmkd.models.losses import KLDivergence
        >>> target, source = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
        >>> KLDivergence(tau=2.0)(target, source)
        tensor(1.9577)
    """

    def __init__(
        self, tau: float = 1.0, mode: str = 'auto', dim: int = 1, standardize: bool = False
    ) -> None:
        super().__init__()
        self.tau, self.mode = check_tau(tau), check_mode(mode)
        self.dim = check_integer(dim, 'dim', -4, 4)
        self.standardize = standardize
        if standardize and mode == 'sigmoid':
            raise ConfigError('standardize: True is for softmax; independent classes need none')

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits.

        Args:
            target: (N, C) or (N, C, ...) with the classes at `dim`.
            source: Of the same shape.
            mask: Which positions of maps (N, C, H, W) count, see `apply_mask`.

        Returns:
            A scalar.
        """
        check_same_shape(target, source, 'logits')
        mode = resolve_mode(self.mode, target.shape[self.dim])
        if self.standardize and mode == 'sigmoid':
            raise ConfigError('standardize: one class has no other to be standardized with')
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            if mode == 'sigmoid':
                logits = self._softened(target), self._softened(source)
                divergence = bernoulli_kl(*logits).sum(self.dim)
            else:
                log_source, p = once(
                    source,
                    ('softmax', self.tau, self.dim, self.standardize),
                    lambda: self._probabilities(source),
                )
                log_target = self._softened(target).log_softmax(self.dim)
                divergence = (p * (log_source - log_target)).sum(self.dim)
            return not_negative(weighted_mean(divergence, weight)) * self.tau**2

    def _softened(self, logits: Tensor) -> Tensor:
        if self.standardize:
            logits = z_score(logits, self.dim)
        return logits if self.tau == 1 else logits / self.tau

    def _probabilities(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p = self._softened(logits).log_softmax(self.dim)
        return log_p, log_p.exp()
