import cv2
import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.models.backbones import MixVisionTransformer, UNet
from mmseg.models.segmentors import BaseSegmentor
from torch import nn

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

from ..base import Task, last_level


def _map_of(sample, size):
    """Return a sample's predicted classes as an array (H, W) at the drawn `size`."""
    classes = sample.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.uint8)
    return cv2.resize(classes, size[::-1], interpolation=cv2.INTER_NEAREST)


@TASKS.register_module('segmentation')
class SegmentationTask(Task):
    """Semantic segmentation by MMSegmentation's networks (EncoderDecoder, CascadeEncoderDecoder).

    Taps: `prediction` is the (last) decode head's logits before they are resized to the image, read at its layer
    `conv_seg` (decode heads call their own `forward`, which no hook sees); `feature` the backbone's last output, another
    one by a module path (`feature_tap='backbone[2]'`). Pixels whose label is the decode head's `ignore_index`, padding among
    them, count in no link's loss.
    """

    truth_argument = 'batch_data_samples'

    @classmethod
    def fits(cls, network):
        return isinstance(network, BaseSegmentor)

    def __init__(self, networks):
        super().__init__(networks)
        self.check_equal(
            {name: self._head(network).ignore_index for name, network in networks.items()},
            'ignore_index',
            'model.members',
        )

    @staticmethod
    def _head(network):
        head = network.decode_head
        return head[-1] if isinstance(head, nn.ModuleList) else head

    def resolve_tap(self, name, network, key):
        if name == 'feature':
            return 'backbone', last_level
        head = self._head(network)
        if not isinstance(getattr(head, 'conv_seg', None), nn.Module):
            raise ConfigError(
                f"{key}: {type(head).__name__} has no layer 'conv_seg' for the 'prediction' tap: name the module "
                'that gives its logits'
            )
        last = (
            f'decode_head.{len(network.decode_head) - 1}'
            if head is not network.decode_head
            else 'decode_head'
        )
        return f'{last}.conv_seg', None

    def default_loss(self, tap):
        if tap == 'prediction':
            # Members with one channel and with two can't be compared; the link's build says so.
            one = all(self._head(network).out_channels == 1 for network in self.networks.values())
            return dict(type='KLDivergence', mode='sigmoid' if one else 'softmax')
        return super().default_loss(tap)

    def run_for_taps(self, network, inputs, data_samples, paths):
        if all(path.split('.')[0] in ('backbone', 'neck') for path in paths):
            network.extract_feat(inputs)
        else:
            network.encode_decode(
                inputs,
                [dict(img_shape=inputs.shape[-2:], pad_shape=inputs.shape[-2:])] * len(inputs),
            )

    def valid_mask(self, data_samples):
        ignored = self._head(next(iter(self.networks.values()))).ignore_index
        return torch.stack([sample.gt_sem_seg.data for sample in data_samples]).ne(ignored).float()

    def classes_of(self, sample):
        ignored = self._head(next(iter(self.networks.values()))).ignore_index
        return frozenset(sample.gt_sem_seg.data.unique().tolist()) - {ignored}

    def paste(self, sample, other, box):
        top, bottom, left, right = box
        pasted = sample.clone()
        for name, field in sample.items():
            if isinstance(field, PixelData) and name.startswith('gt_'):
                data = field.data.clone()
                data[..., top:bottom, left:right] = other.get(name).data[
                    ..., top:bottom, left:right
                ]
                pasted.set_data({name: PixelData(data=data)})
        return pasted

    def stages_of(self, network):
        backbone = network.backbone
        if isinstance(backbone, UNet):  # skips start at these outputs, too
            return [f'backbone.encoder.{i}' for i in range(len(backbone.encoder))]
        if isinstance(backbone, MixVisionTransformer):  # a stage's norm
            return [f'backbone.layers.{i}.2' for i in range(len(backbone.layers))]
        return super().stages_of(network)

    def loss_methods(self, network):
        heads = {'decode_head': network.decode_head}
        if getattr(network, 'auxiliary_head', None) is not None:
            heads['auxiliary_head'] = network.auxiliary_head
        paths = []
        for path, head in heads.items():
            paths += (
                [f'{path}.{i}' for i in range(len(head))]
                if isinstance(head, nn.ModuleList)
                else [path]
            )
        return dict.fromkeys(paths, 'loss_by_feat')

    def truth_of(self, dataset, index, sample):
        truth = sample.new()
        truth.pred_sem_seg = sample.gt_sem_seg
        return truth

    def draw(self, canvas, size, sample, colour, metainfo):
        classes = _map_of(sample, size)
        palette = metainfo.get('palette') or []
        for label in range(1 if len(metainfo['classes']) == 2 else 0, len(metainfo['classes'])):
            if (classes == label).any():
                own = (
                    colour
                    if len(metainfo['classes']) == 2 or not palette
                    else tuple(palette[label])
                )
                canvas.draw_binary_masks(classes == label, colors=own, alphas=0.5)

    def draw_disagreement(self, canvas, size, samples, colours, metainfo):
        maps = np.stack([_map_of(sample, size) for sample in samples.values()])
        differ = (maps != maps[0]).any(0)
        if differ.any():
            canvas.draw_binary_masks(differ, colors=(255, 23, 68), alphas=0.8)

    def build_ensemble(self, members, **cfg):
        heads = {name: self._head(self.networks[name]) for name in members}
        self.check_equal(
            {name: head.out_channels for name, head in heads.items()},
            'output channels',
            'model.ensemble.members',
        )
        cfg.setdefault('threshold', heads[members[0]].threshold)
        return build_checked(MODELS, dict(type='SegmentationEnsemble', **cfg), 'model.ensemble')
