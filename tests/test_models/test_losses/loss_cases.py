"""Each loss with inputs that it takes: the properties in `test_all_losses.py` hold for all."""

from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmkd.registry import MODELS


@dataclass
class Case:
    """A loss's config, the shape of its sides, and what of the context it needs."""

    cfg: dict[str, Any]
    shape: tuple[int, ...] = (2, 4, 4, 4)
    labels: bool = False
    maskable: bool = True
    # Equal sides are at no distance; batch size and resolution leave the value.
    zero_for_equal: bool = True
    resolution: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def build(self):
        torch.manual_seed(0)
        cfg = dict(self.cfg, type=f'mmkd.{self.cfg["type"]}')
        return MODELS.build(cfg).eval()

    def sides(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        target = 2 * torch.randn(self.shape, generator=generator)
        return target, torch.randn(self.shape, generator=generator) + 0.5

    def context(self, n=None, repeat=1, size=None):
        """What the loss names of the context, for n images of height and width `size`."""
        if not self.labels:
            return {}
        n, size = n or self.shape[0], size or self.shape[2:]
        return dict(data_samples=samples(n, self.shape[1], size) * repeat)

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
    Case(dict(type='ChannelCorrelation')),
    Case(dict(type='SpatialCorrelation')),
]
