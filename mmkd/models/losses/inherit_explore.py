import torch
import torch.nn.functional as F
from torch import nn

from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.resize import resize_like
from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


def factor_distance(target, source):
    """FT(x, y) = mean_i | x_i / ||x|| - y_i / ||y|| | of vectors (N, D), averaged over the N; at most 2 / sqrt(D)."""
    return (F.normalize(target, dim=1, eps=EPS) - F.normalize(source, dim=1, eps=EPS)).abs().mean()


def absolute_cosine(target, source):
    """|cos(x, y)| of vectors (N, D), averaged over the N."""
    return (
        (F.normalize(target, dim=1, eps=EPS) * F.normalize(source, dim=1, eps=EPS))
        .sum(1)
        .abs()
        .mean()
    )


def linear_cka(target, source):
    """Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414) of P examples, (P, k) and (P, l), in [0, 1]."""
    target, source = target - target.mean(0), source - source.mean(0)
    # Sizes leave the value alone but not the range of its fourth powers.
    target, source = (x / x.norm().clamp(min=EPS) for x in (target, source))
    return (source.T @ target).square().sum() / (
        (target.T @ target).norm() * (source.T @ source).norm()
    ).clamp(min=EPS**2)


@MODELS.register_module()
class InheritExploreLoss(nn.Module):
    """Draw one part of the target's channels to the source's factor and push the other away from it.

    IE-KD, Huang et al., "Revisiting Knowledge Distillation: An Inheritance and Exploration Framework" (arXiv 2107.00181), with
    factors from `FactorAutoEncoder` (source) and `InheritExplore` (target):

        l_inh FT(F_inh, F_T) + l_exp L_exp,   FT(x, y) = mean_i | x_i / ||x|| - y_i / ||y|| |

    of each image's whole factor as one vector. L_exp is -FT (least where every sign is opposite to the factor's and all sizes
    are alike), |cos| (least where orthogonal) or CKA. Open, and mmkd's choices: |cos| of whole factors too; linear CKA with the
    batch's positions as examples. FT shrinks with the square root of the factor's size: hence the pooling, and the weights,
    which are of factors some 2000 numbers long. Ignored pixels count: the encoders' convolutions mix them in.
    Vectors shorter than 1e-3 are divided by that. Computed in float32, also under autocast.

    Args:
        inherit_weight (float): l_inh, 0 for none. Default: 500, the usual one of factor transfer (arXiv 1802.04977).
        explore_weight (float, optional): l_exp, 0 for none. Default: 500 for `ft`, 10 for `cos` and `cka` (mmkd's choice).
        explore (str): `ft`, `cos` or `cka`. Default: `ft`.
        max_size (int): Factors are pooled to at most that height and width. Default: 16.

    Raises:
        ConfigError: For other values, or factors that do not fit.
    """

    def __init__(self, inherit_weight=500.0, explore_weight=None, explore='ft', max_size=16):
        super().__init__()
        self.explore = choose(explore, ('ft', 'cos', 'cka'), 'explore')
        if explore_weight is None:
            explore_weight = 500.0 if explore == 'ft' else 10.0
        for name, value in (('inherit_weight', inherit_weight), ('explore_weight', explore_weight)):
            if not isinstance(value, (int, float)) or not 0 <= value < float('inf'):
                raise ConfigError(f'{name}: expected a number >= 0, got {value!r}')
        if not isinstance(max_size, int) or max_size < 1:
            raise ConfigError(f'max_size: expected 1 or more, got {max_size!r}')
        self.inherit_weight, self.explore_weight, self.max_size = (
            inherit_weight,
            explore_weight,
            max_size,
        )

    def forward(self, target, source):
        """Compare factors.

        Args:
            target (dict[str, Tensor]): `inherit` and `explore`, (N, k, H, W), of any height and width.
            source (Tensor): (N, k, H', W').

        Returns:
            dict[str, Tensor]: Scalars `inherit` and `explore`, weighted; the latter is negative for `ft`.
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
                        f'factors differ in shape: {name} {tuple(factor.shape)}, source {tuple(source.shape)}'
                    )
            inherit = factor_distance(factors['inherit'].flatten(1), source.flatten(1))
            if self.explore == 'cka':
                explore = linear_cka(
                    *(x.movedim(1, -1).flatten(0, -2) for x in (factors['explore'], source))
                )
            else:
                distance = absolute_cosine if self.explore == 'cos' else factor_distance
                explore = distance(factors['explore'].flatten(1), source.flatten(1)) * (
                    -1 if self.explore == 'ft' else 1
                )
            return dict(
                inherit=self.inherit_weight * inherit, explore=self.explore_weight * explore
            )
