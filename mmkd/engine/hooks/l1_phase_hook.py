from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.registry import HOOKS
from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError
from mmkd.utils.model import distiller_of


@HOOKS.register_module()
class L1PhaseHook(Hook):
    """YOLOX's last phase: every trained member that can adds an L1 loss of its boxes.

    Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv 2107.08430), have it in the last 15 of
    300 epochs. The phase depends on the training's progress alone, so a resumed run is in that of
    an unbroken one. MMDetection's `YOLOXModeSwitchHook`, which works on members, too, also switches
    mosaic off and needs a data set that can.

    Args:
        begin: Share of the training after which the phase begins. Default: 0.95, as in the paper.

    Raises:
        ConfigError: If no trained member has such a loss.
    """

    def __init__(self, begin: float = 0.95) -> None:
        check_number(begin, 'custom_hooks (L1PhaseHook).begin', most=1)
        self.begin = begin
        self.heads: dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the members' heads."""
        model = distiller_of(runner.model)
        heads = {name: getattr(model.network(name), 'bbox_head', None) for name in model.specs}
        self.heads = {
            name: head
            for name, head in heads.items()
            if hasattr(head, 'use_l1') and model.specs[name].training == 'online'
        }
        if not self.heads:
            raise ConfigError(
                f'custom_hooks: L1PhaseHook acts on no member: none of {list(heads)} is trained '
                "and has 'bbox_head.use_l1'"
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin the phase."""
        if runner.iter < self.begin * runner.max_iters:
            return
        waiting = [name for name, head in self.heads.items() if not head.use_l1]
        for name in waiting:
            self.heads[name].use_l1 = True
        if waiting:
            runner.logger.info(f'L1 loss of the boxes from now on: {", ".join(waiting)}')
