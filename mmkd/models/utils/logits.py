"""What the losses and combiners of logits share: temperature, form and log-probabilities."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.once import is_compiling
from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError

# The logit of what does not count: its probability is 0, and differences stay finite.
NOWHERE = -1e30
MODES = ('auto', 'softmax', 'sigmoid')


def check_tau(tau: float, key: str = 'tau') -> float:
    """Return the temperature, or raise a ConfigError unless it is in (0, 10,000]."""
    check_number(tau, key, most=1e4)  # its square stays far from the largest float
    if tau == 0:
        raise ConfigError(f'{key}: expected a positive number, got {tau!r}')
    return float(tau)


def check_mode(mode: str, key: str = 'mode') -> str:
    """Return the form of the probabilities, or raise a ConfigError for an unknown one."""
    return choose(mode, MODES, key)


def resolve_mode(mode: str, classes: int, key: str = 'mode') -> str:
    """Return `softmax` or `sigmoid` for logits of that many classes.

    Raises:
        ConfigError: For `softmax` with one class, which is 1 whatever the logit.
    """
    if mode == 'softmax' and classes == 1:
        raise ConfigError(f"one class: its softmax is 1 whatever the logits; use {key}='sigmoid'")
    if mode == 'auto':
        return 'sigmoid' if classes == 1 else 'softmax'
    return mode


def _bernoulli_kl(target: Tensor, source: Tensor) -> Tensor:
    ones = source.sigmoid() * (F.logsigmoid(source) - F.logsigmoid(target))
    return ones + (-source).sigmoid() * (F.logsigmoid(-source) - F.logsigmoid(-target))


class _BernoulliKL(torch.autograd.Function):
    """Keeps the logits alone for the backward pass, where autograd keeps several maps of each."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, source: Tensor) -> Tensor:
        ctx.save_for_backward(target, source)
        return _bernoulli_kl(target, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        target, source = ctx.saved_tensors
        of_target = of_source = None
        not_source = (-source).sigmoid()
        if ctx.needs_input_grad[0]:  # sigmoid(t) - sigmoid(s), exact for large logits, too
            of_target = grad * (
                target.sigmoid() * not_source - source.sigmoid() * (-target).sigmoid()
            )
        if ctx.needs_input_grad[1]:
            of_source = grad * source.sigmoid() * not_source * (source - target)
        return of_target, of_source


def bernoulli_kl(target: Tensor, source: Tensor) -> Tensor:
    """KL(source || target) of Bernoulli distributions given by logits, elementwise, in log space.

    Written as sigmoid(s) (logsigmoid(s) - logsigmoid(t)) + sigmoid(-s) (logsigmoid(-s) -
    logsigmoid(-t)). Both have one shape.
    """
    if is_compiling():  # a compiler decides itself what it keeps
        return _bernoulli_kl(target, source)
    return _BernoulliKL.apply(target, source)


def categorical_kl(target: Tensor, source: Tensor, dim: int = 1) -> Tensor:
    """KL(source || target) of distributions over the classes at `dim`, given by logits."""
    log_source = source.log_softmax(dim)
    return (log_source.exp() * (log_source - target.log_softmax(dim))).sum(dim)


def not_negative(divergence: Tensor) -> Tensor:
    """Lift what rounding leaves below 0 where both sides are nearly alike."""
    return divergence.clamp(min=0)


def z_score(logits: Tensor, dim: int = 1) -> Tensor:
    """Bring the logits of each position to mean 0 and (population) standard deviation 1."""
    centered = logits - logits.mean(dim, keepdim=True)
    deviation = centered.square().mean(dim, keepdim=True)
    return centered * deviation.clamp(min=EPS**2).rsqrt()


def log_joint(cls_logits: Tensor, obj_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """log(p) and log(1 - p) of p = class probability times objectness (if any).

    Args:
        cls_logits: (N, P, C).
        obj_logits: (N, P).

    Returns:
        Both (N, P, C).
    """
    log_p, log_not_p = F.logsigmoid(cls_logits.float()), F.logsigmoid(-cls_logits.float())
    if obj_logits is None:
        return log_p, log_not_p
    obj_logits = obj_logits.float().unsqueeze(-1)
    log_not_p = torch.logaddexp(log_not_p, log_p + F.logsigmoid(-obj_logits))
    return log_p + F.logsigmoid(obj_logits), log_not_p
