import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.connectors.base import Connector, WithTerms
from mmkd.models.connectors.factor_encoder import FactorEncoder, factor_convs
from mmkd.registry import MODELS
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class FactorAutoEncoder(Connector):
    """The factor of a source's map: a code that a decoder can rebuild the map from.

    A `source_connector`: the auto-encoder of IE-KD (Huang et al., "Revisiting Knowledge
    Distillation: An Inheritance and Exploration Framework", arXiv 2107.00181), trained by the L1
    distance of map and rebuilt map, and by nothing else: the factor is detached, so that no link's
    loss changes it. In the paper it is trained before the student, on a finished teacher, and then
    frozen (`FactorPretrainHook`). For a source that is trained at the same time (a peer) mmkd
    trains it along: `joint`. The decoder mirrors the encoder.

    Args:
        in_channels: c, the source's channels; filled in by the link.
        rate: k / c, the factor's share of channels, rounded, at least 1.
        joint: Train it in every step by the term `reconstruction`, which has weight 1 whatever the
            link's (and is not computed while that is 0). Default: False, which needs a frozen
            source and the hook.

    Raises:
        ConfigError: For a rate outside (0, 1], or for vectors.
        RuntimeError: In training, if it was to be fitted before and was not.
    """

    trained: Tensor

    def __init__(self, in_channels: int, rate: float = 0.5, joint: bool = False) -> None:
        super().__init__()
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ConfigError(f'rate: expected a number in (0, 1], got {rate!r}')
        channels = max(1, round(rate * in_channels))
        self.encoder = FactorEncoder(in_channels, channels)
        self.decoder = factor_convs(channels, channels, in_channels, in_channels)
        self.joint, self.fits_first = joint, not joint
        self.register_buffer('trained', torch.tensor(joint))
        self._is_fitted = joint
        self.learn(joint)

    @property
    def fitted(self) -> bool:
        """Whether its weights are fitted, by this run or by the one whose checkpoint was loaded."""
        # Once true it stays true: reading the buffer waits for the device.
        self._is_fitted = self._is_fitted or bool(self.trained)
        return self._is_fitted

    @fitted.setter
    def fitted(self, value: bool) -> None:
        self._is_fitted = value
        self.trained.fill_(value)

    def learn(self, mode: bool) -> None:
        """Start or end fitting; while it does not learn it stays in eval mode."""
        self.learns = mode
        self.requires_grad_(mode)
        self.train(mode)

    def train(self, mode: bool = True) -> 'FactorAutoEncoder':
        """Set training mode, while it learns."""
        super().train(mode and self.learns)
        return self

    def fit_loss(self, x: Tensor) -> Tensor:
        """The L1 distance of x (N, c, H, W) and the rebuilt map."""
        x = x.detach()
        return self._reconstruction(x, self.encoder(x))

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor | WithTerms:
        """Encode x (N, c, H, W).

        Returns:
            The factor (N, k, H, W), detached; while it learns, with the term `reconstruction`.
        """
        x = x.detach()
        if not self.learns:
            # Without gradients it is the build's probe, before any fitting.
            if torch.is_grad_enabled() and not self.fitted:
                raise RuntimeError(
                    'FactorAutoEncoder: not trained yet: add custom_hooks=[dict('
                    "type='mmkd.FactorPretrainHook')], or set joint=True"
                )
            with torch.no_grad():
                return self.encoder(x)
        factor = self.encoder(x)
        terms = dict(reconstruction=self._reconstruction(x, factor))
        return WithTerms(factor.detach(), terms)

    def _reconstruction(self, x: Tensor, factor: Tensor) -> Tensor:
        return F.l1_loss(self.decoder(factor).float(), x.float())
