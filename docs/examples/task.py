"""A task of one's own: two networks that estimate a number, without any toolbox but mmengine."""

import torch
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd.models.ensembles.base import Ensemble
from mmkd.registry import MODELS, TASKS
from mmkd.tasks import Task


@MODELS.register_module()
class AgeEstimator(BaseModel):
    """A small network in mmengine's form: `loss` gives a dict, `predict` data samples."""

    def __init__(self, width: int = 8, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        """Run as every OpenMMLab model does."""
        ages = self.head(self.backbone(inputs).mean((2, 3)))
        if mode == 'loss':
            truth = torch.stack([sample.gt_age for sample in data_samples]).view(-1, 1)
            return dict(loss_age=nn.functional.l1_loss(ages, truth))
        if mode == 'predict':
            for sample, age in zip(data_samples, ages):
                sample.set_field(age, 'pred_age')
            return data_samples
        return ages


@MODELS.register_module()
class MeanAge(Ensemble):
    """The mean of the members' estimates."""

    def fuse_samples(self, samples: list[BaseDataElement]) -> BaseDataElement:
        """Fuse the members' predictions of one image."""
        fused = samples[0].clone()
        fused.set_field(torch.stack([sample.pred_age for sample in samples]).mean(0), 'pred_age')
        return fused


@TASKS.register_module('age')
class AgeTask(Task):
    """Estimate one number per image.

    Taps: `prediction` is the head's output (N, 1), `feature` the backbone's map.
    """

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        """Whether `network` is one of this task's: `model.task` need not be given then."""
        return isinstance(network, AgeEstimator)

    def resolve_tap(self, name: str, network: nn.Module, key: str):
        """Name the module that a standard tap reads, and what makes its value (None: nothing)."""
        return ('head', None) if name == 'prediction' else ('backbone', None)

    def default_loss(self, tap: str) -> dict | None:
        """Return the loss of links that name none."""
        if tap == 'prediction':
            return dict(type='FeatureMSE', normalize='none')
        return super().default_loss(tap)

    def run_for_taps(self, network, inputs, data_samples, paths) -> None:
        """Run a member without losses, so that the modules at `paths` are called."""
        network(inputs, data_samples, mode='tensor')

    def build_ensemble(self, members, **cfg) -> Ensemble:
        """Build what fuses the members."""
        return MODELS.build(dict(type='MeanAge', **cfg))


if __name__ == '__main__':
    network = dict(type='mmkd.AgeEstimator')
    model = MMENGINE_MODELS.build(
        dict(
            type='mmkd.OnlineDistiller',
            members=dict(
                student1=dict(config=dict(network, width=8), seed=1),
                student2=dict(config=dict(network, width=12), seed=2),
            ),
            sharing=dict(type='ml_p'),
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
    samples = [BaseDataElement(gt_age=torch.tensor([age])) for age in (0.2, 0.5, 0.8, 0.3)]
    batch = dict(inputs=torch.rand(4, 3, 32, 32), data_samples=samples)
    log = model.train_step(batch, optimizers)
    print({name: round(float(value), 4) for name, value in log.items()})
    with torch.no_grad():
        fused = model.eval()(**batch, mode='predict')
    print('ensemble:', [round(float(sample.pred_age), 4) for sample in fused])
