"""Each loss with inputs that it takes: the properties in `test_all_losses.py` hold for all."""

from dataclasses import dataclass
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmkd.registry import MODELS


@dataclass
class Case:
    """A loss's config, the shape of its sides, and what of the context it needs."""

    cfg: dict[str, Any]
    shape: tuple[int, ...] = (2, 4, 4, 4)
    labels: bool = False
    boxes: bool = False
    maskable: bool = True
    # Equal sides are at no distance; batch size and resolution leave the value.
    zero_for_equal: bool = True
    resolution: bool = True

    def build(self):
        torch.manual_seed(0)
        cfg = dict(self.cfg, type=f'mmkd.{self.cfg["type"]}')
        return MODELS.build(cfg).eval()

    def sides(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        target = 2 * torch.randn(self.shape, generator=generator)
        return target, torch.randn(self.shape, generator=generator) + 0.5

    def context(self, repeat=1):
        """What the loss names of the context."""
        n = self.shape[0]
        if self.boxes:
            return dict(data_samples=box_samples(n) * repeat)
        if self.labels:
            return dict(data_samples=samples(n, self.shape[1], self.shape[2:]) * repeat)
        return {}

    @property
    def name(self):
        options = '-'.join(f'{k}={v}' for k, v in self.cfg.items() if k != 'type')
        return f'{self.cfg["type"]}-{options}-{len(self.shape)}d{self.shape[1]}'


def samples(n, classes, size=(), seed=3):
    """Data samples with a label each, or with a label map of the given size."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        labels = torch.randint(0, max(2, classes), (1, *size), generator=generator)
        if size:
            made.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))
        else:
            made.append(DataSample().set_gt_label(labels))
    return made


def box_samples(n, size=32, seed=3):
    """Data samples with one or two boxes each on images of `size` pixels."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        corner = torch.rand(1 + i % 2, 2, generator=generator) * size * 0.5
        sample = DetDataSample(metainfo=dict(batch_input_shape=(size, size)))
        sample.gt_instances = InstanceData(bboxes=torch.cat([corner, corner + 0.4 * size], 1))
        made.append(sample)
    return made


def dense(n=2, p=6, c=2, objectness=True, seed=0):
    """A dense detector's prediction; any object with these fields is one for the losses."""
    from mmkd.tasks.detection.structures import DensePrediction

    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, p, 2, generator=generator) * 20
    sides = 4 + 10 * torch.rand(n, p, 2, generator=generator)
    return DensePrediction(
        3 * torch.randn(n, p, c, generator=generator),
        3 * torch.randn(n, p, generator=generator) if objectness else None,
        torch.cat([corner, corner + sides], -1),
    )


VECTORS, MAPS, ONE = (5, 4), (2, 4, 4, 4), (2, 1, 4, 4)
CASES = [
    *(
        Case(dict(type='KLDivergence', **cfg), shape)
        for shape, cfg in (
            (VECTORS, dict(tau=2.0)),
            (MAPS, dict(tau=2.0)),
            (MAPS, dict(standardize=True)),
            (ONE, dict()),
        )
    ),
    *(
        Case(dict(type='PseudoLabel', **cfg), shape, zero_for_equal=cfg.get('mode') == 'soft')
        for shape, cfg in (
            (VECTORS, dict(mode='hard')),
            (MAPS, dict(mode='hard', threshold=0.6)),
            (MAPS, dict(mode='soft', dice_weight=0.5)),
            (MAPS, dict(mode='sharp', threshold=0.5, normalize='confident')),
            (ONE, dict(mode='hard', dice_weight=1.0)),
            (ONE, dict(mode='soft')),
        )
    ),
    *(Case(dict(type='DKD'), shape, labels=True) for shape in (VECTORS, MAPS, ONE)),
    *(Case(dict(type='PearsonFeature'), shape) for shape in (VECTORS, MAPS)),
    Case(dict(type='ChannelWise', tau=2.0)),
    *(Case(dict(type='FeatureMSE', normalize=n)) for n in ('channel', 'spatial', 'none')),
    *(Case(dict(type='DIST', tau=2.0), shape) for shape in (VECTORS, MAPS, ONE)),
    *(
        Case(dict(type=name))
        for name in ('AttentionTransfer', 'NeuronSelectivity', 'ChannelCorrelation', 'FitNets')
    ),
    *(Case(dict(type='SimilarityPreserving'), shape) for shape in (VECTORS, MAPS)),
    *(Case(dict(type='RelationalKD'), shape) for shape in (VECTORS, (5, 4, 4, 4))),
    Case(dict(type='HierarchicalContext'), (2, 4, 8, 8), resolution=False),
    Case(dict(type='MaskedGenerative', out_channels=4), zero_for_equal=False, resolution=False),
    Case(dict(type='AdversarialFeature', out_channels=4), zero_for_equal=False, resolution=False),
    # Boxes cover whole cells, the finer ones more exactly.
    Case(
        dict(type='FocalGlobal', out_channels=4),
        (2, 4, 8, 8),
        boxes=True,
        maskable=False,
        resolution=False,
        zero_for_equal=False,
    ),
    Case(dict(type='SpatialCorrelation')),
]
