from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor
from typing_extensions import override

from mmkd.utils.errors import ConfigError

from ..mixing import TaskMixing
from ..types import Box, Network


class DetectionMixing(TaskMixing):
    """Mixing of detectors' images: at the input only, boxes cut with the image.

    Images are of the same class if they have a class in common.
    """

    gt_argument = 'batch_gt_instances'
    mixes_features = False

    @override
    def classes_of(self, sample: DetDataSample) -> frozenset[int]:
        return frozenset(sample.gt_instances.labels.tolist())

    @override
    def same_class(self, one: frozenset[int], other: frozenset[int]) -> bool:
        return one == other or bool(one & other)

    @override
    def paste(self, sample: DetDataSample, other: DetDataSample, box: Box) -> DetDataSample:
        # A box stays if at least half of it is seen (mmkd's choice). A pasted one ends at the
        # region's border.
        top, bottom, left, right = box
        pasted = sample.clone()
        for name in ('gt_instances', 'ignored_instances'):
            if name not in sample or name not in other:
                continue
            own, theirs = sample.get(name), other.get(name)
            if (set(own.keys()) | set(theirs.keys())) - {'bboxes', 'labels'}:
                raise ConfigError(
                    'model.mixer: local mixing cuts boxes and labels only, '
                    f'got {name} with {list(own.keys())}'
                )
            region = own.bboxes.new_tensor([left, top, right, bottom])
            own = own[_share_inside(own.bboxes, region) <= 0.5]
            theirs = theirs[_share_inside(theirs.bboxes, region) >= 0.5]
            instances = InstanceData(
                labels=torch.cat([own.labels, theirs.labels]),
                bboxes=torch.cat([own.bboxes, _clipped(theirs.bboxes, region)]),
            )
            pasted.set_data({name: instances})
        return pasted

    @override
    def loss_methods(self, network: Network) -> dict[str, str]:
        if not isinstance(network, SingleStageDetector) or not hasattr(network, 'bbox_head'):
            raise ConfigError(
                f'global mixing is for one-stage detectors, got {type(network).__name__}: it '
                'assigns ground truth before its loss; set global_prob=0'
            )
        return {'bbox_head': 'loss_by_feat'}

    @override
    def gt_arguments(self, data_samples: list[DetDataSample]) -> dict[str, Any]:
        instances, ignored, _ = unpack_gt_instances(data_samples)
        return dict(batch_gt_instances=instances, batch_gt_instances_ignore=ignored)


def _clipped(boxes: Tensor, region: Tensor) -> Tensor:
    """Cut boxes (M, 4) at the region's border (4,); both xyxy in pixels."""
    return torch.cat([boxes[:, :2].maximum(region[:2]), boxes[:, 2:].minimum(region[2:])], dim=1)


def _share_inside(boxes: Tensor, region: Tensor) -> Tensor:
    """Return the share (M,) of each box's area inside the region."""
    clipped = _clipped(boxes, region)
    inside = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(1)
    return inside / (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-6)
