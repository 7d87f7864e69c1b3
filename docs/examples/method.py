"""A method of one's own: a combiner, and the links that use it.

Each student learns from all the others at once: from the mean of their probabilities, weighted for
each image by how sure they are.
"""

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from mmkd.models.combiners import Combiner
from mmkd.registry import MODELS


@MODELS.register_module()
class ConfidenceMean(Combiner):
    """Log-probabilities of the mean of the sources, each weighted by its highest probability."""

    def forward(self, sources: list[Tensor], target: Tensor) -> Tensor:
        """Combine logits.

        Args:
            sources: Logits (N, classes), in the order of the link's `source`.
            target: The target's logits (N, classes).
        """
        probabilities = torch.stack([source.float().softmax(1) for source in sources])
        weights = probabilities.amax(2, keepdim=True)
        mean = (weights * probabilities).sum(0) / weights.sum(0)
        return mean.clamp(min=1e-12).log()


def confident_peers(students: list[str], tau: float = 1.0, weight: float = 1.0) -> list[dict]:
    """Return the links of the method; a config calls it: `links=confident_peers([...])`."""
    return [
        dict(
            source=[peer for peer in students if peer != student],
            target=student,
            name='peers',
            combine=dict(type='ConfidenceMean'),
            loss=dict(type='KLDivergence', tau=tau),
            weight=weight,
        )
        for student in students
    ]


if __name__ == '__main__':
    students = ['student1', 'student2', 'student3']
    narrow = {'backbone.base_channels': 8, 'backbone.stem_channels': 8, 'head.in_channels': 64}
    network = dict(config='mmpretrain::resnet/resnet18_8xb16_cifar10.py', options=narrow)
    model = MMENGINE_MODELS.build(
        dict(
            type='mmkd.OnlineDistiller',
            members={name: dict(network, seed=i) for i, name in enumerate(students)},
            links=confident_peers(students),
        )
    )
    images = torch.randint(0, 256, (4, 3, 32, 32))
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, 3)]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    terms = model.train()(**data, mode='loss')
    print({name: round(float(value), 4) for name, value in terms.items()})
