import torch
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.logits import (
    bernoulli_kl,
    categorical_kl,
    check_mode,
    check_tau,
    not_negative,
    resolve_mode,
)
from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.models.utils.resize import resize_like
from mmkd.models.utils.shapes import check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError

HARD_LOGIT = 1e4  # of the chosen class: its probability is 1 in float32


@MODELS.register_module()
class PseudoLabel(DistillationLoss):
    """The source's prediction as the target's label, for images without labels.

        loss = mean of g KL(q || p_target) + dice_weight Dice(p_target, q)

    over images and positions, with q the pseudo label and g the gate: 1 where the source's highest
    probability reaches `threshold`, else 0. KL(q || p) is the cross entropy less q's own entropy,
    which has no gradient and is 0 for hard labels. The source is detached.

    - FixMatch (Sohn et al., arXiv 2001.07685): `mode='hard'`, `threshold=0.95`, and the mean over
      all positions.
    - Cross pseudo supervision (Chen et al., arXiv 2106.01226): two peers, `mode='hard'` both ways.
    - UCMT (Shen et al., arXiv 2301.04465) has the Dice loss on hard labels of peers and of their
      teacher: `dice_weight`.

    `mode='soft'` without a gate is `KLDivergence` with tau 1. Dice is the form with squares
    (Milletari et al., arXiv 1606.04797) over the batch's positions that count, averaged over
    classes:

        Dice = sum g (p - q)^2 / (sum g p^2 + sum g q^2),   in [0, 1], 0 where p = q

    Args:
        mode: `hard` (one-hot of the highest class), `soft` (the probabilities), or `sharp` (the
            probabilities of the logits divided by `tau`).
        threshold: In [0, 1). Default: 0, all positions count.
        normalize: What the gated sum is divided by: `all` positions, or the `confident` ones
            alone, so that few confident positions weigh as much as many.
        tau: Temperature below 1 that sharpens the labels of `sharp`; MixMatch (arXiv 1905.02249)
            has 0.5.
        dice_weight: Factor of the Dice term; for maps only.
        activation: `softmax`, `sigmoid` (independent classes, each with its own gate; the
            divergences are summed over them) or `auto`: `sigmoid` for logits of one class,
            and in links where an image may have several labels.

    Raises:
        ConfigError: For wrong arguments, logits whose classes differ, and Dice of vectors.

    Examples:
        >>> import torch
        >>> from mmkd.models.losses import PseudoLabel
        >>> target, source = torch.zeros(2, 2), torch.tensor([[0.0, 0.1], [9.0, 0.0]])
        >>> PseudoLabel(threshold=0.9)(target, source)  # log(2) for one of two images
        tensor(0.3466)
    """

    def __init__(
        self,
        mode: str = 'hard',
        threshold: float = 0.0,
        normalize: str = 'all',
        tau: float = 0.5,
        dice_weight: float = 0.0,
        activation: str = 'auto',
    ) -> None:
        super().__init__()
        self.mode = choose(mode, ('hard', 'soft', 'sharp'), 'mode')
        check_number(threshold, 'threshold', most=1)
        if threshold == 1:
            raise ConfigError(
                'threshold: expected a number in [0, 1), got 1: no position would count'
            )
        self.threshold = threshold
        self.normalize = choose(normalize, ('all', 'confident'), 'normalize')
        self.tau = check_tau(tau)
        check_number(dice_weight, 'dice_weight')
        self.dice_weight = dice_weight
        self.activation = check_mode(activation, 'activation')

    def forward(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits.

        Args:
            target: (N, C) or (N, C, H, W).
            source: (N, C), or (N, C, H', W'), which is brought to the target's size.
            mask: Which positions of maps count, see `apply_mask`.

        Returns:
            A scalar.
        """
        if target.dim() == source.dim() == 4:
            source = resize_like(source.float(), target)
        check_same_shape(target, source, 'logits')
        if self.dice_weight and target.dim() != 4:
            raise ConfigError(
                f'dice_weight: Dice is for maps (N, C, H, W), got {tuple(target.shape)}'
            )
        form = resolve_mode(self.activation, target.shape[1], 'activation')
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.detach().float())
            if form == 'sigmoid':
                confidence = source.abs().sigmoid()
                label = self._label(source, source.ge(0).float() * 2 - 1)
                divergence = bernoulli_kl(target, label)
            else:
                confidence = source.softmax(1).amax(1, keepdim=True)
                best = torch.zeros_like(source).scatter(1, source.argmax(1, keepdim=True), 1)
                label = self._label(source, best)
                divergence = categorical_kl(target, label).unsqueeze(1)
            valid = torch.ones_like(confidence)
            if weight is not None:
                valid = valid * weight.unsqueeze(1)
            gated = valid * confidence.ge(self.threshold)
            counted = gated if self.normalize == 'confident' else valid
            # Divergences of independent classes are summed, as in KLDivergence.
            mean = weighted_mean(divergence, gated, counted)
            loss = not_negative(mean) * divergence.shape[1]
            if self.dice_weight:
                loss = loss + self.dice_weight * _dice(target, label, form, gated)
            return loss

    def _label(self, source: Tensor, sign: Tensor) -> Tensor:
        """The logits of the pseudo label; `sign` is highest at the classes that a hard one has."""
        if self.mode == 'hard':
            return sign * HARD_LOGIT
        return source / self.tau if self.mode == 'sharp' else source


def _dice(target: Tensor, label: Tensor, form: str, weight: Tensor) -> Tensor:
    p, q = (x.sigmoid() if form == 'sigmoid' else x.softmax(1) for x in (target, label))
    dims = (0, 2, 3)
    distance = ((p - q).square() * weight).sum(dims)
    total = ((p.square() + q.square()) * weight).sum(dims)
    return (distance / total.clamp(min=torch.finfo(total.dtype).tiny)).mean()
