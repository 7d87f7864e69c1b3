"""A weight rule of one's own: a link counts as far as its gradient agrees with the task's."""

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmpretrain.structures import DataSample

from mmkd.models.weights import WeightRule
from mmkd.registry import MODELS


@MODELS.register_module()
class AgreementWeight(WeightRule):
    """(1 + cosine) / 2 of the link's and the task's gradient at the tap: 0 opposed, 1 alike.

    Args:
        scale: Factor at full agreement.
        interval: See `WeightRule`.
        momentum: See `WeightRule`.
    """

    def __init__(self, scale: float = 1.0, interval: int = 20, momentum: float = 0.9) -> None:
        super().__init__(interval, momentum)
        self.scale = scale

    def factor(self) -> float:
        """Return the factor of the link's terms, from the running means of the measurements."""
        return self.scale * (1 + self.cosine) / 2


if __name__ == '__main__':
    narrow = {'backbone.base_channels': 8, 'backbone.stem_channels': 8, 'head.in_channels': 64}
    network = dict(config='mmpretrain::resnet/resnet18_8xb16_cifar10.py', options=narrow)
    link = dict(source='teacher', target='student', weight=dict(type='AgreementWeight', interval=1))
    model = MMENGINE_MODELS.build(
        dict(
            type='mmkd.OnlineDistiller',
            members=dict(teacher=dict(network, seed=1), student=dict(network, seed=2)),
            links=[link],
        )
    )
    model.train()
    optimizers = build_optim_wrapper(
        model,
        dict(
            constructor='mmkd.MemberOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.01),
        ),
    )
    images = torch.randint(0, 256, (4, 3, 32, 32))
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, 3)]
    for step in range(2):
        log = model.train_step(dict(inputs=images, data_samples=samples), optimizers)
        print(step, {name: round(float(log[name]), 4) for name in log if '[' in name})
    (built,) = model.links
    print('measured', built.rule.measurements, 'times; factor', round(built.rule.factor(), 4))
