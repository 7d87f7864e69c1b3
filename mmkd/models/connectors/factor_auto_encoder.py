import torch
import torch.nn.functional as F
from torch import nn

from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError

from .factor_encoder import FactorEncoder, factor_convs


@MODELS.register_module()
class FactorAutoEncoder(nn.Module):
    """The factor of a source's map: a code that a decoder can rebuild the map from. A `source_connector`.

    The auto-encoder of IE-KD (Huang et al., "Revisiting Knowledge Distillation: An Inheritance and Exploration Framework",
    arXiv 2107.00181), trained by the L1 distance of map and rebuilt map, and by nothing else: the factor is detached, so that no
    link's loss bends it. There it is trained before the student, on a finished teacher, and then frozen (`FactorPretrainHook`).
    For a source that is trained at the same time (a peer) mmkd trains it along: `joint`. The decoder mirrors the encoder.

    Args:
        in_channels (int): c, the source's channels; filled in by the link.
        rate (float): k / c, the factor's share of channels, rounded, at least 1. Default: 0.5.
        joint (bool): Train in every step by the term `reconstruction`, which has weight 1 whatever the link's (and is 0 as
            long as that is 0). Default: False, which needs a frozen source and the hook.

    Raises:
        ConfigError: For a rate outside (0, 1], or for vectors.
        RuntimeError: In training, if it was to be trained before and was not.
    """

    needs_channels = True
    adds_terms = True

    def __init__(self, in_channels, rate=0.5, joint=False):
        super().__init__()
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ConfigError(f'rate: expected a number in (0, 1], got {rate!r}')
        channels = max(1, round(rate * in_channels))
        self.encoder = FactorEncoder(in_channels, channels)
        self.decoder = factor_convs(channels, channels, in_channels, in_channels)
        self.joint = joint
        self.register_buffer('trained', torch.tensor(joint))
        self._is_ready = joint
        self.learn(joint)

    @property
    def needs_frozen_source(self):
        """bool: Whether the source must not change any more."""
        return not self.joint

    def learn(self, mode):
        """Start or stop training its weights; without it stays in eval mode."""
        self.learns = mode
        self.requires_grad_(mode)
        return self.train(mode)

    def train(self, mode=True):
        """Set training mode, while it learns."""
        return super().train(mode and self.learns)

    def forward(self, x, like=None):
        """Encode x (N, c, H, W).

        Returns:
            tuple[Tensor, dict]: The factor (N, k, H, W), detached, and the terms: `reconstruction` while it learns.
        """
        x = x.detach()
        if not self.learns:
            if torch.is_grad_enabled():  # a training step, not the build's probe
                self._check_trained()
            with torch.no_grad():
                return self.encoder(x), {}
        factor = self.encoder(x)
        rebuilt = self.decoder(factor)
        return factor.detach(), dict(reconstruction=F.l1_loss(rebuilt.float(), x.float()))

    def _check_trained(self):
        self._is_ready = self._is_ready or bool(
            self.trained
        )  # read once: a read waits for the device
        if not self._is_ready:
            raise RuntimeError(
                "FactorAutoEncoder: not trained yet: add custom_hooks=[dict(type='mmkd.FactorPretrainHook')], or set "
                'joint=True'
            )
