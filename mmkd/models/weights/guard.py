from mmkd.registry import MODELS
from mmkd.utils.checks import check_number, choose

from .base import WeightRule


@MODELS.register_module()
class NegativeTransferGuard(WeightRule):
    """Silence or bend a link that pulls against the target's own task.

    `mute` sets the link's factor to 0 while the running mean of the cosine between the link's and
    the task's gradient at the tap is below `threshold`; it goes on measuring, so the link comes
    back when they agree again. `project` removes in every step the part of the link's gradient
    that points against the task's (PCGrad, Yu et al., arXiv 2001.06782, eq. 1; here at each tapped
    tensor and for the link alone); it needs the task's gradient at the tap in every step. `log`
    only measures.

    Args:
        mode: `mute`, `project` or `log`. Default: `mute`.
        threshold: The cosine below which a link is muted. Default: 0.
        interval: See `WeightRule`.
        momentum: See `WeightRule`.
    """

    def __init__(
        self,
        mode: str = 'mute',
        threshold: float = 0.0,
        interval: int = 20,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(interval, momentum)
        self.mode = choose(mode, ('mute', 'project', 'log'), 'mode')
        check_number(threshold, 'threshold', -1, 1)
        self.threshold = threshold

    def factor(self) -> float:
        """Return 0 for a muted link, else 1."""
        return 0.0 if self.mode == 'mute' and self.cosine < self.threshold else 1.0
