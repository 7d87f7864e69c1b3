"""What a link from a source of random noise costs a student, with a guard and without."""

import statistics

import pytest
import torch
from distributed_worker import classification
from mmengine.logging import MessageHub
from torch.nn.functional import interpolate

from mmkd.models.combiners import Combiner
from mmkd.registry import MODELS

datasets = pytest.importorskip('sklearn.datasets')
pytest.importorskip('mmpretrain')
BATCH = 32


@MODELS.register_module(force=True)
class Noise(Combiner):
    """Random logits in place of the source's, new ones in each step."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, sources, target):
        return 3 * torch.randn(target.shape, generator=self.generator)


def digits():
    """Real data without a download: 8x8 digits, 1297 to train and 500 to test, at 16 px."""
    from mmpretrain.structures import DataSample

    images, labels = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(images).float().view(-1, 1, 8, 8) * 15.9
    images = interpolate(images, size=16, mode='bilinear').expand(-1, 3, -1, -1)
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    return images.to(torch.uint8), samples


def train(toolkit, data, seed, epochs, **link):
    """Train one student, with a link if one is given; return the model and its accuracy."""
    images, samples = data
    torch.manual_seed(seed)
    MessageHub._instance_dict.clear()
    cfg = classification('individual')
    student = dict(cfg['members']['student1'], seed=seed)
    student['options'] = dict(student['options'], **{'head.num_classes': 10})
    links = []
    if link:
        links = [dict(source='other', target='student', combine=dict(type='Noise', seed=seed))]
        links[0].update(link)
    model = toolkit.make_distiller(
        members=dict(student=student, other=dict(student, seed=seed + 100)),
        links=links,
        data_preprocessor=cfg['data_preprocessor'],
        ensemble=dict(members=['student']),
    )
    wrapper = toolkit.optim_wrapper(model, optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
    order = torch.Generator().manual_seed(seed)
    steps = epochs * (1297 // BATCH)
    for step in range(steps):
        if step % (1297 // BATCH) == 0:
            batches = torch.randperm(1297, generator=order).split(BATCH)
        rate = 0.05 * (1 - step / steps)
        for one in wrapper.values():
            one.optimizer.param_groups[0]['lr'] = rate
        chosen = batches[step % (1297 // BATCH)].tolist()
        model.progress = step / steps
        MessageHub.get_current_instance().update_info('iter', step)
        batch = dict(inputs=[images[i] for i in chosen], data_samples=[samples[i] for i in chosen])
        model.train_step(batch, wrapper)
    model.eval()
    test = dict(inputs=list(images[1297:]), data_samples=samples[1297:])
    found = model.predict_members(test, ['student'])['student']
    return model, 100 * statistics.mean(float(s.pred_label == s.gt_label) for s in found)


@MODELS.register_module(force=True)
class Truth(Combiner):
    """Logits that the labels are right with, in place of the source's."""

    def forward(self, sources, target, data_samples=None):
        if data_samples is None:  # at the build
            return torch.zeros_like(target)
        labels = torch.cat([sample.gt_label for sample in data_samples])
        return 5 * torch.eye(10)[labels]


def test_a_guard_mutes_noise(toolkit):
    """Forty steps, of which 17 are measured: noise is never heard."""
    data = digits()
    model, found = train(toolkit, data, 0, 1, guard=dict(mode='mute', interval=4))
    (link,) = model.links
    assert link.guard.measurements == 17 and link.factor(1.0) == 0
    assert train(toolkit, data, 0, 1)[1] == found


def test_a_guard_lets_through_what_agrees_with_the_task(toolkit):
    model, _ = train(toolkit, digits(), 0, 1, guard='mute', combine=dict(type='Truth'))
    (link,) = model.links
    assert link.guard.cosine > 0.5 and link.factor(1.0) == 1


@pytest.mark.slow
def test_noise_costs_less_than_half_a_point_when_muted_or_held_at_a_share(toolkit):
    """Mean over three seeds, paired: same initial weights and batches."""
    data, costs = digits(), {}
    arms = dict(
        unguarded=dict(weight=1.0),
        mute=dict(weight=1.0, guard='mute'),
        project=dict(weight=1.0, guard='project'),
        share=dict(weight=dict(type='GradientShare', share=0.1)),
    )
    alone = [train(toolkit, data, seed, 6)[1] for seed in range(3)]
    for arm, link in arms.items():
        found = [train(toolkit, data, seed, 6, **link)[1] for seed in range(3)]
        costs[arm] = statistics.mean(a - b for a, b in zip(alone, found))
        print(f'{arm}: {[round(x, 1) for x in found]}')
    rounded = {arm: round(cost, 2) for arm, cost in costs.items()}
    print(f'alone: {[round(x, 1) for x in alone]}; costs in points: {rounded}')
    assert costs['mute'] < 0.5 and costs['share'] < 0.5
    assert 0.5 < costs['project'] < costs['unguarded']  # noise does not oppose the task
