from collections.abc import Sequence

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.engine.loops.position import position_of
from mmkd.registry import HOOKS
from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError
from mmkd.utils.model import distiller_of
from mmkd.visualization.panels import feature_panels, member_panels


@HOOKS.register_module()
class MemberVisualizationHook(Hook):
    """After validation, draw images: ground truth, members, ensemble, disagreement, tapped maps.

    The pictures go to the Runner's visualizer, and so to each of its backends (files, TensorBoard,
    ...), as `members_<index>` and `features_<index>`, with the epoch (or iteration) as their step.
    Runs before mmengine's EMAHook swaps the averaged weights out again: they show what was
    measured.

    Args:
        indices: Images of the validation set. Default: the first four.
        interval: Draw after every `interval` validations. Default: 1.
        features: Draw the maps that the links' taps read, too. Default: True.

    Raises:
        ConfigError: For an interval below 1, or an index that is out of range.
    """

    priority = 'ABOVE_NORMAL'

    def __init__(
        self, indices: Sequence[int] = (0, 1, 2, 3), interval: int = 1, features: bool = True
    ) -> None:
        check_integer(interval, 'MemberVisualizationHook.interval')
        for index in indices:
            check_integer(index, 'MemberVisualizationHook.indices', 0)
        self.indices, self.interval, self.features = list(indices), interval, features
        self.count = 0

    def before_run(self, runner: Runner) -> None:
        """Check the indices."""
        if runner._val_loop is None or isinstance(runner._val_loop, dict):
            return  # a test, which needs no validation data: not built
        size = len(runner.val_dataloader.dataset)
        for index in self.indices:
            if not 0 <= index < size:
                raise ConfigError(
                    f'MemberVisualizationHook.indices: {index}, but the validation set has {size} '
                    'images'
                )

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw."""
        self.count += 1
        if self.count % self.interval:
            return
        model, dataset = distiller_of(runner.model), runner.val_dataloader.dataset
        step = position_of(runner)[1]
        for index in self.indices:
            panels = member_panels(model, dataset, index)
            runner.visualizer.add_image(f'members_{index}', panels, step)
            maps = feature_panels(model, dataset, index) if self.features else None
            if maps is not None:
                runner.visualizer.add_image(f'features_{index}', maps, step)
