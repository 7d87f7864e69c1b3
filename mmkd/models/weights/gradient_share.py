from mmkd.registry import MODELS
from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError

from .base import WeightRule


@MODELS.register_module()
class GradientShare(WeightRule):
    """Hold a link's gradient at a share of the task's own, where the link enters the target.

    factor = share * mean ||dL_task / dtap|| / mean ||dL_link / dtap||    (geometric means)

    so that one number serves losses whose scales differ by many orders of magnitude. RT-DETRv4
    (arXiv 2510.25257) holds its distillation gradient at 11 % of the encoder's, adjusting the
    weight each epoch; measuring at the tap every few iterations, the running means and the limits
    are mmkd's choice. The link's schedule and guard multiply the factor. Of a link on labeled and
    unlabeled images (`on='both'`) the labeled images are measured, and both have the factor.

    Args:
        share: Norm of the link's gradient as a share of the task's; 0: no link. Default: 0.1.
        interval: See `WeightRule`.
        momentum: See `WeightRule`. Default: 0.3, so that the share follows gradients that fall
            while it averages the batches a little (mmkd's choice: at 0.9 it lagged by 200
            iterations).
        limits: Least and greatest factor. Default: 1e-6 and 1e6.

    Raises:
        ConfigError: For values out of range.
    """

    def __init__(
        self,
        share: float = 0.1,
        interval: int = 20,
        momentum: float = 0.3,
        limits: tuple[float, float] = (1e-6, 1e6),
    ) -> None:
        super().__init__(interval, momentum)
        check_number(share, 'share')
        low, high = limits
        check_number(low, 'limits')
        check_number(high, 'limits')
        if not low < high:
            raise ConfigError(f'limits: expected the least and the greatest factor, got {limits}')
        self.share, self.limits = share, (low, high)

    @property
    def acts(self) -> bool:
        """Whether the share is above 0."""
        return self.share > 0

    def factor(self) -> float:
        """Return the factor; 0 before the first measurement and for a link without gradient."""
        if self.measurements == 0 or self.link_norm <= 0:
            return 0.0
        low, high = self.limits
        return min(max(self.share * self.task_norm / self.link_norm, low), high)
