from __future__ import annotations

from typing import TYPE_CHECKING

from mmengine.structures import BaseDataElement, PixelData
from mmseg.models.backbones import MixVisionTransformer, UNet
from torch import nn
from typing_extensions import override

from ..mixing import TaskMixing
from ..types import Box, Network

if TYPE_CHECKING:
    from .segmentation_task import SegmentationTask


class SegmentationMixing(TaskMixing):
    """Mixing of segmenters' images: label maps are cut with the image."""

    task: SegmentationTask

    gt_argument = 'batch_data_samples'

    @override
    def classes_of(self, sample: BaseDataElement) -> frozenset[int]:
        return frozenset(sample.gt_sem_seg.data.unique().tolist()) - {self.task.ignore_index}

    @override
    def paste(self, sample: BaseDataElement, other: BaseDataElement, box: Box) -> BaseDataElement:
        top, bottom, left, right = box
        pasted = sample.clone()
        for name, field in sample.items():
            if isinstance(field, PixelData) and name.startswith('gt_'):
                data, theirs = field.data.clone(), other.get(name).data
                data[..., top:bottom, left:right] = theirs[..., top:bottom, left:right]
                pasted.set_data({name: PixelData(data=data)})
        return pasted

    @override
    def stages_of(self, network: Network) -> list[str]:
        backbone = network.backbone
        if isinstance(backbone, UNet):  # skip connections start at these outputs, too
            return [f'backbone.encoder.{i}' for i in range(len(backbone.encoder))]
        if isinstance(backbone, MixVisionTransformer):  # a stage's norm
            return [f'backbone.layers.{i}.2' for i in range(len(backbone.layers))]
        return super().stages_of(network)

    @override
    def loss_methods(self, network: Network) -> dict[str, str]:
        heads = {'decode_head': network.decode_head}
        if getattr(network, 'auxiliary_head', None) is not None:
            heads['auxiliary_head'] = network.auxiliary_head
        paths: list[str] = []
        for path, head in heads.items():
            several = isinstance(head, nn.ModuleList)
            paths += [f'{path}.{i}' for i in range(len(head))] if several else [path]
        return dict.fromkeys(paths, 'loss_by_feat')
