import torch
import torch.nn.functional as F
from torch import nn

from mmkd.models.utils.mask import apply_mask, weighted_mean
from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


def bernoulli_kl(target, source):
    """KL(source || target) of two Bernoulli distributions given by logits, elementwise, in log space.

    Written as sigmoid(s) * (logsigmoid(s) - logsigmoid(t)) + sigmoid(-s) * (logsigmoid(-s) - logsigmoid(-t)).
    """
    return source.sigmoid() * (F.logsigmoid(source) - F.logsigmoid(target)) + (
        -source
    ).sigmoid() * (F.logsigmoid(-source) - F.logsigmoid(-target))


def check_tau(tau):
    """Raise a ConfigError unless the temperature is a positive number."""
    if not isinstance(tau, (int, float)) or not 0 < tau < float('inf'):
        raise ConfigError(f'tau: expected a positive number, got {tau}')
    return float(tau)


@MODELS.register_module()
class KLDivergence(nn.Module):
    """tau^2 KL(p_source || p_target) of logits softened by a temperature, averaged over images and positions.

    Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531); between peers Zhang et al., "Deep Mutual
    Learning" (arXiv 1706.00384, eq. 5 with tau = 1). Averaging over positions, not only over images, is mmkd's choice: the
    value does not grow with resolution. Computed in float32, also under autocast.

    Args:
        tau (float): Temperature. Default: 1.
        mode (str): `softmax` (one label) or `sigmoid` (independent labels, one output channel: the binary divergences are
            summed over classes). Default: `softmax`.
        dim (int): Class dimension. Default: 1.

    Raises:
        ConfigError: For wrong arguments, logits whose shapes differ, and one class in softmax form, where all logits agree.
    """

    def __init__(self, tau=1.0, mode='softmax', dim=1):
        super().__init__()
        self.tau, self.mode, self.dim = (
            check_tau(tau),
            choose(mode, ('softmax', 'sigmoid'), 'mode'),
            dim,
        )

    def forward(self, target, source, mask=None):
        """Compare logits.

        Args:
            target, source (Tensor): Of one shape, (N, C) or (N, C, ...) with the classes at `dim`.
            mask (Tensor, optional): Which positions of maps (N, C, H, W) count, see `apply_mask`.

        Returns:
            Tensor: A scalar.
        """
        if target.shape != source.shape:
            raise ConfigError(
                f'logits differ in shape: target {tuple(target.shape)}, source {tuple(source.shape)}'
            )
        if self.mode == 'softmax' and target.shape[self.dim] == 1:
            raise ConfigError("one class: its softmax is 1 whatever the logits; use mode='sigmoid'")
        with torch.autocast(target.device.type, enabled=False):
            target, source, weight = apply_mask(mask, target.float(), source.float())
            target, source = target / self.tau, source / self.tau
            if self.mode == 'sigmoid':
                divergence = bernoulli_kl(target, source)
            else:
                log_source = source.log_softmax(self.dim)
                divergence = log_source.exp() * (log_source - target.log_softmax(self.dim))
            return weighted_mean(divergence.sum(self.dim), weight) * self.tau**2
