"""mmkd's registries: children of mmengine's with scope `mmkd`, and three of mmkd's own."""

import sys
from importlib import import_module
from typing import Any

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import EVALUATOR as MMENGINE_EVALUATOR
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOG_PROCESSORS as MMENGINE_LOG_PROCESSORS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import Registry

import mmkd.utils.config  # noqa: F401 (`_base_ = 'mmkd::...'` from now on)


class LazyRegistry(Registry):
    """A registry whose classes that need a toolbox are imported when they are asked for.

    A config of one toolbox then imports no other one.

    Args:
        needs: By class name the toolbox and the module that registers the class.
    """

    def __init__(self, *args: Any, needs: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.needs = needs

    def get(self, key: str) -> Any:
        """Return the class of a name, as mmengine does."""
        scope, _, name = key.rpartition('.')
        if name in self.needs and scope in ('', self.scope):
            self.import_from_location()
            import_module(self.needs[name][1])
        return super().get(key)

    @property
    def module_dict(self) -> dict[str, Any]:
        """Classes by name, those of the toolboxes that are imported by now among them."""
        self.import_from_location()
        for toolbox, module in self.needs.values():
            if toolbox in sys.modules:
                import_module(module)
        return self._module_dict


# Networks' surroundings: distillers, losses, connectors, ensembles, mixers.
MODELS = LazyRegistry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmkd',
    locations=['mmkd.models'],
    needs={'EfficientNetLite': ('mmpretrain', 'mmkd.models.backbones.efficientnet_lite')},
)
MODEL_WRAPPERS = Registry(
    'model wrapper',
    parent=MMENGINE_MODEL_WRAPPERS,
    scope='mmkd',
    locations=['mmkd.engine.parallel'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmkd', locations=['mmkd.engine.hooks'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmkd', locations=['mmkd.engine.loops'])
OPTIMIZERS = Registry(
    'optimizer', parent=MMENGINE_OPTIMIZERS, scope='mmkd', locations=['mmkd.engine.optimizers']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmkd',
    locations=['mmkd.engine.optimizers'],
)
DATASETS = LazyRegistry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmkd',
    locations=['mmkd.datasets'],
    needs={
        'PolypDetection': ('mmdet', 'mmkd.datasets.polyp_detection'),
        'PolypSegmentation': ('mmseg', 'mmkd.datasets.polyp_segmentation'),
        'FolderClassification': ('mmpretrain', 'mmkd.datasets.folder_classification'),
    },
)
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmkd', locations=['mmkd.datasets']
)
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope='mmkd', locations=['mmkd.datasets']
)
LOG_PROCESSORS = Registry(
    'log processor',
    parent=MMENGINE_LOG_PROCESSORS,
    scope='mmkd',
    locations=['mmkd.engine.log_processors'],
)
VISBACKENDS = Registry(
    'vis backend', parent=MMENGINE_VISBACKENDS, scope='mmkd', locations=['mmkd.visualization']
)
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='mmkd', locations=['mmkd.evaluation'])
EVALUATOR = Registry(
    'evaluator', parent=MMENGINE_EVALUATOR, scope='mmkd', locations=['mmkd.evaluation']
)

# Pure functions of training progress that scale a link's weight.
SCHEDULES = Registry('schedule', scope='mmkd', locations=['mmkd.schedules'])
# What is specific to detection, segmentation, classification.
TASKS = LazyRegistry(
    'task',
    scope='mmkd',
    locations=['mmkd.tasks'],
    needs={
        'detection': ('mmdet', 'mmkd.tasks.detection'),
        'segmentation': ('mmseg', 'mmkd.tasks.segmentation'),
        'classification': ('mmpretrain', 'mmkd.tasks.classification'),
    },
)
