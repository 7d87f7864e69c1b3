from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import (
    CascadeRPNHead,
    CondInstBboxHead,
    DDQDETRHead,
    DETRHead,
    GroundingDINOHead,
    SOLOV2Head,
)
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.models.roi_heads import (
    CascadeRoIHead,
    SparseRoIHead,
    StandardRoIHead,
    TridentRoIHead,
)
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn
from typing_extensions import override

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked, choose
from mmkd.utils.errors import ConfigError

from ..base import Task
from ..types import Network, TapReader
from .drawing import DetectionDrawing
from .instances import read_condinst, read_solo
from .masks import LastCall
from .mends import complete_ssd, leave_masks_out, widen_for_operators
from .mixing import DetectionMixing
from .proposals import read_proposals
from .queries import read_queries
from .readers import reader_of

if TYPE_CHECKING:
    from mmkd.models.ensembles import Ensemble

# By detector, modules that run on proposals or queries: two members' are not the same boxes.
UNMATCHED = {
    TwoStageDetector: (
        ('roi_head',),
        'proposals',
        "the boxes ('prediction'), the features ('feature', 'neck', 'backbone.layer3') and the "
        "maps of 'rpn_head[0]'",
    ),
    DetectionTransformer: (
        ('decoder', 'bbox_head'),
        'queries',
        "the boxes ('prediction'), the features ('feature', 'neck', 'backbone.layer3') and the "
        "'encoder'",
    ),
}


@TASKS.register_module('detection')
class DetectionTask(Task):
    """Detection by MMDetection's networks.

    Taps: `prediction` is, of a dense detector, the head's output on the common grid of all levels
    (`DensePrediction`: class logits, objectness where the head has it, boxes decoded to pixels),
    for heads with a `prediction_reader`; of SOLOv2 its grids (`GridPrediction`); of a two-stage
    detector what its second stage makes of proposals (`ProposalPrediction`); of a transformer its
    queries (`QueryPrediction`). All but queries draw masks where the network has a mask head.
    `feature` is the levels of the neck (of the backbone where there is no neck).
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__(networks)
        self.mixing = DetectionMixing(self)
        self.drawing = DetectionDrawing(self)
        for network in networks.values():
            widen_for_operators(network)
            leave_masks_out(network)
            complete_ssd(network)

    @classmethod
    @override
    def fits(cls, network: Network) -> bool:
        return isinstance(network, BaseDetector)

    @override
    def resolve_tap(self, name: str, network: Network, key: str) -> tuple[str, TapReader | None]:
        if name == 'feature':
            return ('neck' if network.with_neck else 'backbone'), None
        if isinstance(network, TwoStageDetector):
            _check_two_stage(network, key)
            path = 'neck' if network.with_neck else 'backbone'
            return path, partial(read_proposals, network=network)
        head = getattr(network, 'bbox_head', None)
        if isinstance(network, DetectionTransformer):
            _check_queries(network, head, key)
            call = LastCall()
            network.decoder.register_forward_hook(call, with_kwargs=True)
            return 'bbox_head', partial(read_queries, network=network, call=call)
        if isinstance(head, CondInstBboxHead):
            call, mask_head = LastCall(), network.mask_head
            mask_head.mask_feature_head.register_forward_hook(call, with_kwargs=True)
            return 'bbox_head', partial(read_condinst, mask_head=mask_head, call=call)
        if isinstance(getattr(network, 'mask_head', None), SOLOV2Head):
            return 'mask_head', read_solo
        if head is None:
            raise ConfigError(
                f"{key}: {type(network).__name__} has no head of boxes for the 'prediction' tap; "
                "what works: its features ('feature')"
            )
        return 'bbox_head', reader_of(head, key)

    @override
    def check_tap(self, path: str, network: Network, key: str) -> None:
        for cls, (modules, what, alternatives) in UNMATCHED.items():
            if isinstance(network, cls) and path.split('.')[0] in modules:
                raise ConfigError(
                    f'{key}: a tap at {path!r} of {self.name_of(network)!r}: '
                    f'{type(network).__name__} runs it on its own {what}, which are other boxes in '
                    f'each member and cannot be compared; what works: {alternatives}'
                )

    @override
    def default_loss(self, tap: str) -> dict | None:
        return dict(type='DetectionLoss') if tap == 'prediction' else super().default_loss(tap)

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
        # Heads are called as modules: a detector's own `_forward` calls their `forward`, which no
        # hook sees.
        if isinstance(network, TwoStageDetector) and roots <= {'backbone', 'neck', 'rpn_head'}:
            network.rpn_head(network.extract_feat(inputs))
        elif isinstance(network, DetectionTransformer):
            samples = _with_instances(inputs, data_samples)  # DINO's denoising asks for them
            found = network.forward_transformer(network.extract_feat(inputs), samples)
            if 'bbox_head' in roots:  # what else is found there is for its loss
                names = inspect.signature(network.bbox_head.forward).parameters
                network.bbox_head(**{k: value for k, value in found.items() if k in names})
        elif isinstance(getattr(network, 'mask_head', None), SOLOV2Head):
            network.mask_head(network.extract_feat(inputs))
        elif (
            roots <= {'backbone', 'neck', 'bbox_head'}
            and getattr(network, 'bbox_head', None) is not None
        ):
            features = network.extract_feat(inputs)
            network.bbox_head(features)
            if isinstance(network.bbox_head, CondInstBboxHead):
                network.mask_head.mask_feature_head(features)
        else:
            self._run_unknown(network, inputs, data_samples, paths)

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
        for option, default in (('weights', 1.0), ('calibration', (1.0, 0.0))):
            if cfg.get(option) is not None:
                key = f'model.ensemble.{option}'
                cfg[option] = _by_member(cfg[option], members, default, key)
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


def _by_member(given: Any, members: Sequence[str], default: Any, key: str) -> list[Any]:
    """Return an option's values in the members' order."""
    if isinstance(given, Mapping):
        for name in given:
            choose(name, members, key)
        return [given.get(name, default) for name in members]
    if not isinstance(given, (list, tuple)) or len(given) != len(members):
        raise ConfigError(f'{key}: expected a value for each of {list(members)}, got {given!r}')
    return list(given)


def _check_two_stage(network: Network, key: str) -> None:
    roi_head = network.roi_head
    known = isinstance(roi_head, (StandardRoIHead, CascadeRoIHead))
    if not known or isinstance(roi_head, SparseRoIHead) or not network.with_rpn:
        raise ConfigError(
            f"{key}: {type(network).__name__} has no proposals for the 'prediction' tap that "
            'another detector could score: those with an RPN and the standard or cascade RoI head '
            "have (Faster, Mask and Cascade R-CNN); what works: its features ('feature')"
        )
    own = network.roi_head
    reads = any(getattr(own, f'with_{name}', False) for name in ('semantic', 'glbctx'))
    cascade = isinstance(network.rpn_head, CascadeRPNHead)
    if reads or cascade:
        what = type(network.rpn_head if cascade else own).__name__
        raise ConfigError(
            f"{key}: the 'prediction' tap reads the features of the neck alone, and {what} of "
            f"{type(network).__name__} needs more; what works: its features ('feature')"
        )
    # A trained Trident has three branches' maps in one batch; a frozen one, in eval mode, has one.
    if isinstance(own, TridentRoIHead) and any(p.requires_grad for p in network.parameters()):
        raise ConfigError(
            f"{key}: {type(network).__name__} has a 'prediction' tap with training='frozen' alone: "
            'in training it has several maps an image'
        )


def _check_queries(network: Network, head: Any, key: str) -> None:
    if not isinstance(head, DETRHead) or isinstance(head, (DDQDETRHead, GroundingDINOHead)):
        raise ConfigError(
            f"{key}: {type(network).__name__} has no reader for the 'prediction' tap; of "
            'transformers DETR, Conditional, DAB and Deformable DETR and DINO have one; what '
            "works: its features ('feature') and the 'encoder'"
        )


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
