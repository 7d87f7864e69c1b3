import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer, check_number, choose
from mmkd.utils.errors import ConfigError


def factor_distance(target: Tensor, source: Tensor) -> Tensor:
    """FT(x, y) = mean_i | x_i / ||x|| - y_i / ||y|| | of vectors (N, D), averaged over the N.

    It is at most 2 / sqrt(D).
    """
    return (F.normalize(target, dim=1, eps=EPS) - F.normalize(source, dim=1, eps=EPS)).abs().mean()


def absolute_cosine(target: Tensor, source: Tensor) -> Tensor:
    """|cos(x, y)| of vectors (N, D), averaged over the N."""
    product = F.normalize(target, dim=1, eps=EPS) * F.normalize(source, dim=1, eps=EPS)
    return product.sum(1).abs().mean()


def linear_cka(target: Tensor, source: Tensor) -> Tensor:
    """Linear centered kernel alignment of P examples, (P, k) and (P, l), in [0, 1].

    Kornblith et al., arXiv 1905.00414.
    """
    target, source = target - target.mean(0), source - source.mean(0)
    # Sizes do not change the value, but keep its fourth powers in range.
    target, source = (x / x.norm().clamp(min=EPS) for x in (target, source))
    norms = (target.T @ target).norm() * (source.T @ source).norm()
    return (source.T @ target).square().sum() / norms.clamp(min=EPS**2)


@MODELS.register_module()
class InheritExploreLoss(DistillationLoss):
    """Draw one part of the target's channels to the source's factor and push the other away.

    IE-KD, Huang et al., "Revisiting Knowledge Distillation: An Inheritance and Exploration
    Framework" (arXiv 2107.00181), with factors from `FactorAutoEncoder` (source) and
    `InheritExplore` (target):

        l_inh FT(F_inh, F_T) + l_exp L_exp,   FT(x, y) = mean_i | x_i / ||x|| - y_i / ||y|| |

    of each image's whole factor as one vector. L_exp is one of

    - `ft`: 2 / sqrt(D) - FT, least where every sign is opposite to the factor's and all sizes are
      alike. The paper has -FT; D numbers bound FT by 2 / sqrt(D), and adding the bound makes the
      term a loss >= 0 with the same gradient;
    - `cos`: |cos|, least where orthogonal; of whole factors too (open in the paper);
    - `cka`: linear CKA with the batch's positions as examples (open in the paper).

    FT shrinks with the square root of the factor's size, so factors are pooled, and the default
    weights assume factors of about 2,000 numbers. Ignored pixels count: the encoders' convolutions
    mix them in. Vectors shorter than 1e-3 are divided by that. Computed in float32, also under
    autocast.

    Args:
        inherit_weight: l_inh, 0 for none. Default: 500, as usual for factor transfer (arXiv
            1802.04977).
        explore_weight: l_exp, 0 for none. Default: 500 for `ft`, 10 for `cos` and `cka` (mmkd's
            choice).
        explore: `ft`, `cos` or `cka`.
        max_size: Factors are pooled to at most this height and width.

    Raises:
        ConfigError: For other values, or factors that do not fit.
    """

    def __init__(
        self,
        inherit_weight: float = 500.0,
        explore_weight: float | None = None,
        explore: str = 'ft',
        max_size: int = 16,
    ) -> None:
        super().__init__()
        self.explore = choose(explore, ('ft', 'cos', 'cka'), 'explore')
        if explore_weight is None:
            explore_weight = 500.0 if explore == 'ft' else 10.0
        check_number(inherit_weight, 'inherit_weight')
        check_number(explore_weight, 'explore_weight')
        self.inherit_weight, self.explore_weight = inherit_weight, explore_weight
        self.max_size = check_integer(max_size, 'max_size')

    def forward(self, target: dict[str, Tensor], source: Tensor) -> dict[str, Tensor]:
        """Compare factors.

        Args:
            target: `inherit` and `explore`, (N, k, H, W), of any height and width.
            source: (N, k, H', W').

        Returns:
            Scalars `inherit` and `explore`, weighted.
        """
        if not isinstance(target, dict) or source.dim() != 4:
            raise ConfigError(
                "expected factors: connector=dict(type='InheritExplore'), source_connector=dict("
                f"type='FactorAutoEncoder'), got {type(target).__name__} and {tuple(source.shape)}"
            )
        with torch.autocast(source.device.type, enabled=False):
            height, width = (min(side, self.max_size) for side in source.shape[-2:])
            source = resize_like(source.float(), source.new_empty(1, 1, height, width))
            factors = {name: resize_like(factor.float(), source) for name, factor in target.items()}
            for name, factor in factors.items():
                if factor.shape != source.shape:
                    raise ConfigError(
                        f'factors differ in shape: {name} {tuple(factor.shape)}, source '
                        f'{tuple(source.shape)}'
                    )
            inherit = factor_distance(factors['inherit'].flatten(1), source.flatten(1))
            return dict(
                inherit=self.inherit_weight * inherit,
                explore=self.explore_weight * self._exploration(factors['explore'], source),
            )

    def _exploration(self, factor: Tensor, source: Tensor) -> Tensor:
        if self.explore == 'cka':
            return linear_cka(*(x.movedim(1, -1).flatten(0, -2) for x in (factor, source)))
        factor, source = factor.flatten(1), source.flatten(1)
        if self.explore == 'cos':
            return absolute_cosine(factor, source)
        # Clamped, since rounding may exceed the bound where both are opposite.
        return (2 / factor.shape[1] ** 0.5 - factor_distance(factor, source)).clamp(min=0)
