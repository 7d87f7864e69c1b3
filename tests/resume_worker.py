"""A training cut off after an epoch and resumed, against an unbroken one; by one rank or several.

torchrun --nproc_per_node=2 tests/resume_worker.py FOLDER
"""

import random
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, DefaultScope
from mmengine.runner import Runner
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).parent))
import distributed_worker  # noqa: E402


@DATASETS.register_module(force=True)
class NoisyDataset(Dataset):
    """Images of 24 px whose augmentation draws depend in number on the image and its draws."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, size):
        batch = distributed_worker.classification_batch(size, seed=0)
        self.images, self.samples = batch['inputs'], batch['data_samples']

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index][:, :24, :24].float()
        for _ in range(random.randint(0, 3) + index % 2):
            image = image * np.random.uniform(0.8, 1.2) + torch.randn(3, 24, 24)
        return dict(inputs=image, data_samples=self.samples[index].clone())


class Cut(Exception):
    pass


@HOOKS.register_module(force=True)
class CutHook(Hook):
    """Ends the run after the first epoch's checkpoint."""

    priority = 'LOWEST'

    def after_train_epoch(self, runner):
        raise Cut


def make_runner(work_dir, name, resume_from=None, cut=False, workers=0, accumulate=2):
    """Three epochs of three iterations: with two accumulated, the epochs end between steps."""
    DefaultScope.get_instance(f'{name}-{get_rank()}', scope_name='mmpretrain')
    model = dict(type='mmkd.OnlineDistiller', **distributed_worker.classification('kdml_p'))
    for member in model['members'].values():
        member['options'] = dict(member['options'], **{'backbone.drop_path_rate': 0.3})
    model['members']['mean'] = dict(training='ema', of='student1', momentum=0.3)
    loader = dict(
        batch_size=4 // get_world_size(),
        num_workers=workers,
        persistent_workers=workers > 0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='NoisyDataset', size=12),
    )
    cfg = dict(
        model=model,
        work_dir=str(work_dir),
        experiment_name=name,
        train_dataloader=loader,
        train_cfg=dict(type='mmkd.ResumableTrainLoop', max_epochs=3),
        optim_wrapper=dict(
            constructor='mmkd.MemberOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.02, momentum=0.9),
            accumulative_counts=accumulate,
        ),
        default_hooks=dict(checkpoint=dict(type='mmkd.SafeCheckpointHook', interval=1)),
        custom_hooks=[dict(type='mmkd.MemberHook')] + [dict(type='CutHook')] * cut,
        randomness=dict(seed=3, diff_rank_seed=True),
        launcher='pytorch' if get_world_size() > 1 else 'none',
        default_scope='mmpretrain',
        load_from=resume_from,
        resume=resume_from is not None,
    )
    if get_world_size() > 1:
        cfg['model_wrapper_cfg'] = dict(type='MMDistributedDataParallel', device_ids=None)
    return Runner(**{k: v for k, v in cfg.items() if k != 'model_wrapper_cfg'}, cfg=cfg)


def unequal(folder, **options):
    """Names of the weights at which a resumed run ends apart from an unbroken one."""
    whole = make_runner(folder / 'whole', 'whole', **options)
    whole.train()
    broken = make_runner(folder / 'broken', 'broken', cut=True, **options)
    with suppress(Cut):
        broken.train()
    torch.manual_seed(get_rank())
    random.seed(1)
    saved = str(folder / 'broken/epoch_1.pth')
    resumed = make_runner(folder / 'broken', 'resumed', resume_from=saved, **options)
    resumed.train()
    one, other = whole.model.state_dict(), resumed.model.state_dict()
    assert whole.iter == resumed.iter == 9
    return [key for key, value in one.items() if not torch.equal(value, other[key])]


if __name__ == '__main__':
    from mmkd.utils.distributed import init_cpu_distributed

    init_cpu_distributed('pytorch')
    found = unequal(Path(sys.argv[1]))
    print(f'rank {get_rank()}: {len(found)} differ: {found[:3]}')
    sys.exit(bool(found))
