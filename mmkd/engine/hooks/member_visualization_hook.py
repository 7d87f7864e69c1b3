from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmkd.registry import HOOKS
from mmkd.utils.errors import ConfigError
from mmkd.visualization.panels import feature_panels, member_panels


@HOOKS.register_module()
class MemberVisualizationHook(Hook):
    """After validation, draw chosen images: ground truth, each member, the ensemble, their disagreement, and the taps' maps.

    The pictures go to the Runner's visualizer, and so to each of its backends (files, TensorBoard, ...), as
    `members_<index>` and `features_<index>`.

    Args:
        indices (list[int]): Images of the validation set. Default: the first four.
        interval (int): Every so many validations. Default: 1.
        features (bool): Draw the maps that the links' taps read, too. Default: True.
    """

    priority = 'LOW'

    def __init__(self, indices=(0, 1, 2, 3), interval=1, features=True):
        if interval < 1:
            raise ConfigError(
                f'MemberVisualizationHook.interval: expected 1 or more, got {interval}'
            )
        self.indices, self.interval, self.features, self.count = (
            list(indices),
            interval,
            features,
            0,
        )

    def before_run(self, runner):
        dataset = runner.val_dataloader.dataset if runner.val_loop is not None else None
        for index in self.indices if dataset is not None else ():
            if not 0 <= index < len(dataset):
                raise ConfigError(
                    f'MemberVisualizationHook.indices: {index}, but the validation set has {len(dataset)} images'
                )

    @master_only
    def after_val_epoch(self, runner, metrics=None):
        self.count += 1
        if self.count % self.interval:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset = runner.val_dataloader.dataset
        for index in self.indices:
            runner.visualizer.add_image(
                f'members_{index}', member_panels(model, dataset, index), runner.epoch
            )
            maps = feature_panels(model, dataset, index) if self.features else None
            if maps is not None:
                runner.visualizer.add_image(f'features_{index}', maps, runner.epoch)
