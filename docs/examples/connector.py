"""A connector of one's own: a two-layer projector from the student's channels to the teacher's."""

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd.models.connectors import Connector
from mmkd.registry import MODELS


@MODELS.register_module()
class TwoLayerProjector(Connector):
    """Two 1x1 convolutions with a rectifier between them, then a resize.

    Args:
        in_channels: Channels of its own side; the link fills them in.
        out_channels: Channels of the other side; the link fills them in.
        hidden: Channels between the two convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, out_channels, 1)
        )

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """Convert a map.

        Args:
            x: (N, in_channels, H, W).
            like: (N, out_channels, H', W').
        """
        x = self.layers(x)
        return F.interpolate(x, like.shape[-2:], mode='bilinear') if x.shape != like.shape else x


def classifier(width: int, **kwargs) -> dict:
    """Return a member: a narrow ResNet-18."""
    options = {
        'backbone.base_channels': width,
        'backbone.stem_channels': width,
        'head.in_channels': 8 * width,
    }
    return dict(config='mmpretrain::resnet/resnet18_8xb16_cifar10.py', options=options, **kwargs)


if __name__ == '__main__':
    link = dict(
        source='teacher',
        target='student',
        tap='feature',
        loss=dict(type='PearsonFeature'),
        connector=dict(type='TwoLayerProjector', hidden=32),
    )
    model = MMENGINE_MODELS.build(
        dict(
            type='mmkd.OnlineDistiller',
            members=dict(teacher=classifier(12, seed=1), student=classifier(8, seed=2)),
            links=[link],
        )
    )
    images = torch.randint(0, 256, (4, 3, 32, 32))
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, 3)]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    terms = model.train()(**data, mode='loss')
    print({name: round(float(value), 4) for name, value in terms.items()})
    (built,) = model.links
    print('trained with the student:', [name for name, _ in built.named_parameters()])
