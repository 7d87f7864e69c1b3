from mmdet.models.detectors.base import BaseDetector

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked

from ..base import Task
from .dense_heads import reader_of


@TASKS.register_module('detection')
class DetectionTask(Task):
    """Detection by MMDetection's networks.

    Taps: `prediction` is the dense head's output on the common grid of all levels (`DensePrediction`: class logits,
    objectness where the head has it, boxes decoded to pixels); `feature` the levels of the neck (of the backbone where
    there is no neck).
    """

    @classmethod
    def fits(cls, network):
        return isinstance(network, BaseDetector)

    def resolve_tap(self, name, network, key):
        if name == 'feature':
            return ('neck' if network.with_neck else 'backbone'), None
        head = getattr(network, 'bbox_head', None)
        if head is None or hasattr(network, 'rpn_head'):
            raise ValueError(f"{key}: {type(network).__name__} has no single dense head for the 'prediction' tap: it has one "
                             'for one-stage detectors (YOLOX, RTMDet)')
        return 'bbox_head', reader_of(head, key)

    def default_loss(self, tap):
        return dict(type='DenseDetectionLoss') if tap == 'prediction' else super().default_loss(tap)

    def run_for_taps(self, network, inputs, data_samples, paths):
        if all(path.split('.')[0] in ('backbone', 'neck') for path in paths):
            network.extract_feat(inputs)
        elif not hasattr(network, 'roi_head'):
            network.bbox_head(network.extract_feat(inputs))  # `_forward` calls `bbox_head.forward`, which no hook sees
        else:
            network(inputs, data_samples, mode='tensor')

    def build_ensemble(self, **cfg):
        return build_checked(MODELS, dict(type='DetectionEnsemble', **cfg), 'model.ensemble')
