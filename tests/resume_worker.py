"""A training cut off after an epoch and resumed, against an unbroken one; by one rank or several.

torchrun --nproc_per_node=2 tests/resume_worker.py FOLDER
"""

import random
import sys
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
from light_training import light_config  # noqa: E402


class Cut(Exception):
    pass


@HOOKS.register_module(force=True)
class CutHook(Hook):
    """Ends the run after the first epoch's checkpoint."""

    priority = 'LOWEST'

    def after_train_epoch(self, runner):
        raise Cut


def make_runner(
    work_dir, resume_from=None, cut=False, workers=0, accumulate=2, unlabeled=False, dot=False
):
    """Three epochs of three iterations: with two accumulated, the epochs end between steps."""
    cfg = light_config(
        work_dir,
        **{
            'train_cfg.max_epochs': 3,
            'optim_wrapper.accumulative_counts': accumulate,
            'train_dataloader.batch_size': 4 // get_world_size(),
            'train_dataloader.num_workers': workers,
            'train_dataloader.persistent_workers': workers > 0,
            'randomness': dict(seed=3, diff_rank_seed=True),
            'model.members.mean': dict(training='ema', of='student1', momentum=0.3),
        },
    )
    for name in ('teacher', 'student1', 'student2'):
        cfg.model.members[name].options['backbone.drop_path_rate'] = 0.3
    if unlabeled:
        cfg.unlabeled_dataloader = dict(
            cfg.train_dataloader, dataset=dict(type='NoisyDataset', size=10)
        )
        cfg.model.links = [
            dict(source='mean', target=name, tap='prediction', on='unlabeled', name='pseudo')
            for name in ('student1', 'student2')
        ]
    if dot:
        cfg.optim_wrapper.optimizer = dict(type='mmkd.DistillationOrientedSGD', lr=0.02)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.save_best = None
    cfg.custom_hooks = [dict(type='mmkd.MemberHook')] + [dict(type='CutHook')] * cut
    if get_world_size() > 1:
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
    cfg.load_from, cfg.resume = resume_from, resume_from is not None
    return Runner.from_cfg(cfg)


def unequal(folder, **options):
    """Names of the weights at which a resumed run ends apart from an unbroken one."""
    whole = make_runner(folder / 'whole', **options)
    whole.train()
    with suppress(Cut):
        make_runner(folder / 'broken', cut=True, **options).train()
    torch.manual_seed(get_rank())
    random.seed(1)
    resumed = make_runner(folder / 'broken', str(folder / 'broken/epoch_1.pth'), **options)
    resumed.train()
    one, other = whole.model.state_dict(), resumed.model.state_dict()
    assert whole.iter == resumed.iter == 9
    return [key for key, value in one.items() if not torch.equal(value, other[key])]


if __name__ == '__main__':
    from mmkd.utils.distributed import init_cpu_distributed

    init_cpu_distributed('pytorch')
    found = unequal(Path(sys.argv[1]), unlabeled=True, dot=True)
    print(f'rank {get_rank()}: {len(found)} differ: {found[:3]}')
    sys.exit(bool(found))
