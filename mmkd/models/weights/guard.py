from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer, check_number, choose

from .base import WeightRule


@MODELS.register_module()
class NegativeTransferGuard(WeightRule):
    """Silence or bend a link that pulls against the target's own task.

    `mute` sets the link's factor to 0 while the running mean of the cosine between the link's and
    the task's gradient at the tap is below `threshold`; it goes on measuring, so the link comes
    back when they agree again. `project` removes in every step the part of the link's gradient
    that points against the task's (PCGrad, Yu et al., arXiv 2001.06782, eq. 1; here at each tapped
    tensor and for the link alone); it needs the task's gradient at the tap in every step. `log`
    only measures. A training begins with `first` measurements in a row; until then a link that may
    be muted is. Of a link on labeled and unlabeled images (`on='both'`) the labeled ones are
    compared, and `mute` silences both; `project` is for labeled images alone.

    Args:
        mode: `mute`, `project` or `log`. Default: `mute`.
        threshold: The cosine below which a link is muted. Default: 0.05, mmkd's choice: the mean
            cosine of a link from noise scatters around 0, and lets it through now and then at 0.
        interval: See `WeightRule`.
        momentum: See `WeightRule`.
        first: Number of measurements in a row at the begin, and of those with a gradient before
            a link is heard. Default: 10, mmkd's choice.
    """

    def __init__(
        self,
        mode: str = 'mute',
        threshold: float = 0.05,
        interval: int = 20,
        momentum: float = 0.9,
        first: int = 10,
    ) -> None:
        super().__init__(interval, momentum)
        self.mode = choose(mode, ('mute', 'project', 'log'), 'mode')
        check_number(threshold, 'threshold', -1, 1)
        check_integer(first, 'first')
        self.threshold, self.first = threshold, first

    def due(self, iteration: int) -> bool:
        """Return whether a measurement is due in this iteration (from 0)."""
        return self.measurements < self.first or super().due(iteration)

    def factor(self) -> float:
        """Return 0 for a muted link, else 1."""
        if self.mode != 'mute':
            return 1.0
        return float(self.counted >= self.first and self.cosine >= self.threshold)
