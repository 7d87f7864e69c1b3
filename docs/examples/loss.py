"""A loss of one's own: learn from the source only where it is right.

Copy the class into a module of your project and name the module in the config:
`custom_imports = dict(imports=['mmkd', 'my_losses'])`.
"""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from mmkd.models.losses import DistillationLoss
from mmkd.registry import MODELS


@MODELS.register_module()
class CorrectSourceKL(DistillationLoss):
    """KL divergence of class distributions over the images whose label the source gets right.

    Args:
        tau: Temperature.
    """

    def __init__(self, tau: float = 2.0) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, target: Tensor, source: Tensor, data_samples: list | None) -> Tensor:
        """Compare logits.

        Args:
            target: (N, classes).
            source: (N, classes), detached by the link.
            data_samples: One per image. The link passes it because it is named here; such a link
                acts on labeled images only. None when the link is built.
        """
        log_p = F.log_softmax(target.float() / self.tau, dim=1)
        log_q = F.log_softmax(source.float() / self.tau, dim=1)
        divergence = (log_q.exp() * (log_q - log_p)).sum(1) * self.tau**2
        if data_samples is None:
            return divergence.mean()
        labels = torch.cat([sample.gt_label for sample in data_samples]).to(source.device)
        return (divergence * (source.argmax(1) == labels)).mean()


if __name__ == '__main__':
    narrow = {'backbone.base_channels': 8, 'backbone.stem_channels': 8, 'head.in_channels': 64}
    network = dict(config='mmpretrain::resnet/resnet18_8xb16_cifar10.py', options=narrow)
    link = dict(source='teacher', target='student', loss=dict(type='CorrectSourceKL', tau=2.0))
    model = MMENGINE_MODELS.build(
        dict(
            type='mmkd.OnlineDistiller',
            members=dict(teacher=dict(network, seed=1), student=dict(network, seed=2)),
            links=[link],
        )
    )
    torch.manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 32, 32))  # of which the teacher gets some right
    samples = [DataSample().set_gt_label(label) for label in 2 * list(range(10))]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    terms = model.train()(**data, mode='loss')
    print({name: round(float(value), 4) for name, value in terms.items()})
