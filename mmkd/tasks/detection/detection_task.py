from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn
from typing_extensions import override

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

from ..base import Task
from ..types import Network, TapReader
from .drawing import DetectionDrawing
from .mixing import DetectionMixing
from .readers import reader_of

if TYPE_CHECKING:
    from mmkd.models.ensembles import Ensemble

# By detector, modules that run on proposals or queries: two members' are not the same boxes.
UNMATCHED = {
    TwoStageDetector: (
        ('roi_head',),
        'proposals',
        "the features ('feature', 'neck', 'backbone.layer3') and the maps of 'rpn_head[0]'",
    ),
    DetectionTransformer: (
        ('decoder', 'bbox_head'),
        'queries',
        "the features ('feature', 'neck', 'backbone.layer3') and the 'encoder'",
    ),
}


@TASKS.register_module('detection')
class DetectionTask(Task):
    """Detection by MMDetection's networks.

    Taps: `prediction` is the dense head's output on the common grid of all levels
    (`DensePrediction`: class logits, objectness where the head has it, boxes decoded to pixels),
    for heads with a `prediction_reader`; `feature` the levels of the neck (of the backbone where
    there is no neck).
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__(networks)
        self.mixing = DetectionMixing(self)
        self.drawing = DetectionDrawing(self)

    @classmethod
    @override
    def fits(cls, network: Network) -> bool:
        return isinstance(network, BaseDetector)

    @override
    def resolve_tap(self, name: str, network: Network, key: str) -> tuple[str, TapReader | None]:
        if name == 'feature':
            return ('neck' if network.with_neck else 'backbone'), None
        head = getattr(network, 'bbox_head', None)
        if head is None or isinstance(network, (TwoStageDetector, DetectionTransformer)):
            raise ConfigError(
                f"{key}: {type(network).__name__} has no dense head for the 'prediction' tap, as "
                "one-stage detectors have; tap its features ('feature')"
            )
        return 'bbox_head', reader_of(head, key)

    @override
    def default_loss(self, tap: str) -> dict | None:
        return dict(type='DenseDetectionLoss') if tap == 'prediction' else super().default_loss(tap)

    @override
    def run_for_taps(
        self,
        network: Network,
        inputs: Tensor,
        data_samples: Sequence[DetDataSample] | None,
        paths: Sequence[str],
    ) -> None:
        roots = {path.split('.')[0] for path in paths}
        if roots <= {'backbone', 'neck'}:
            network.extract_feat(inputs)
            return
        self._check_comparable(network, paths)
        # Heads are called as modules: a detector's own `_forward` calls their `forward`, which no
        # hook sees.
        if isinstance(network, TwoStageDetector) and roots <= {'backbone', 'neck', 'rpn_head'}:
            network.rpn_head(network.extract_feat(inputs))
        elif isinstance(network, DetectionTransformer):
            samples = _with_instances(inputs, data_samples)  # DINO's denoising asks for them
            network.forward_transformer(network.extract_feat(inputs), samples)
        elif (
            roots <= {'backbone', 'neck', 'bbox_head'}
            and getattr(network, 'bbox_head', None) is not None
        ):
            network.bbox_head(network.extract_feat(inputs))
        else:
            self._run_unknown(network, inputs, data_samples, paths)

    def _check_comparable(self, network: Network, paths: Sequence[str]) -> None:
        for cls, (modules, what, alternatives) in UNMATCHED.items():
            refused = [path for path in paths if path.split('.')[0] in modules]
            if isinstance(network, cls) and refused:
                raise ConfigError(
                    f'a tap at {refused[0]!r} of {self.name_of(network)!r}: '
                    f'{type(network).__name__} runs it on its own {what}, which are other boxes in '
                    f'each member and cannot be compared; what works: {alternatives}'
                )

    def _run_unknown(
        self,
        network: Network,
        inputs: Tensor,
        data_samples: Sequence[DetDataSample] | None,
        paths: Sequence[str],
    ) -> None:
        try:
            network(inputs, _with_instances(inputs, data_samples), mode='tensor')
        except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
            raise ConfigError(
                f'taps at {", ".join(paths)} of {self.name_of(network)!r}: '
                f'{type(network).__name__} cannot run without losses '
                f'({type(error).__name__}: {error}); what works: taps in the backbone and the neck'
            ) from error

    @override
    def build_ensemble(self, members: Sequence[str], **cfg: Any) -> Ensemble:
        counts = {name: self.num_classes(self.networks[name]) for name in members}
        self.check_equal(
            {name: count for name, count in counts.items() if count is not None},
            'classes',
            'model.ensemble.members',
        )
        return build_checked(MODELS, dict(type='DetectionEnsemble', **cfg), 'model.ensemble')

    @override
    def num_classes(self, network: Network) -> int | None:
        for path in ('bbox_head', 'roi_head.bbox_head', 'mask_head', 'panoptic_head'):
            module: Any = network
            for name in path.split('.'):
                module = getattr(module, name, None)
            if isinstance(module, nn.ModuleList):  # a cascade's
                module = module[-1]
            if hasattr(module, 'num_classes'):
                return module.num_classes
        return None


def _with_instances(
    inputs: Tensor, data_samples: Sequence[DetDataSample] | None
) -> list[DetDataSample]:
    """Return data samples that all have ground truth, without objects where they had none.

    Args:
        inputs: Images (N, 3, H, W).
        data_samples: One per image, of labeled or unlabeled images; None: made up.
    """
    shape = tuple(inputs.shape[-2:])
    sizes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape)
    if data_samples is None:
        data_samples = [
            DetDataSample(metainfo=dict(sizes, scale_factor=(1.0, 1.0))) for _ in inputs
        ]
    samples = []
    for sample in data_samples:
        if 'gt_instances' not in sample:
            sample = sample.clone()
            sample.gt_instances = InstanceData(
                bboxes=inputs.new_zeros((0, 4)), labels=inputs.new_zeros((0,), dtype=torch.long)
            )
        samples.append(sample)
    return samples
