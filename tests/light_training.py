"""A whole training that takes a second: three narrow classifiers on twelve small images."""

import itertools
import os
import random
from pathlib import Path

import distributed_worker
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[1]
COUNTER = itertools.count()


@DATASETS.register_module(force=True)
class NoisyDataset(Dataset):
    """Images of 24 px whose augmentation draws depend in number on the image and its draws."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, size=12):
        batch = distributed_worker.classification_batch(size, seed=0)
        self.images, self.samples = batch['inputs'], batch['data_samples']

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index][:, :24, :24].float()
        for _ in range(random.randint(0, 3) + index % 2):
            image = image * np.random.uniform(0.8, 1.2) + torch.randn(3, 24, 24)
        return dict(inputs=image, data_samples=self.samples[index].clone())


def light_config(work_dir, **changes):
    """Two epochs of three iterations, with the runtime that mmkd's configs have."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/classification_runtime.py')
    cfg.merge_from_dict(
        dict(
            model=dict(type='mmkd.OnlineDistiller', **distributed_worker.classification('kdml_p')),
            train_dataloader=loader(shuffle=True),
            val_dataloader=loader(shuffle=False),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            test_dataloader=loader(shuffle=False),
            test_evaluator=dict(type='Accuracy', topk=(1,)),
            train_cfg=dict(type='mmkd.ResumableTrainLoop', max_epochs=2, val_interval=2),
            optim_wrapper=dict(
                constructor='mmkd.MemberOptimWrapperConstructor',
                optimizer=dict(type='SGD', lr=0.02, momentum=0.9),
            ),
            custom_imports=dict(imports=['mmkd', 'light_training']),
            default_hooks=dict(logger=dict(interval=1)),
            # mmengine has one visualizer a name and process, with the first one's folder.
            visualizer=dict(name=f'light_{next(COUNTER)}'),
            experiment_name=f'light_{next(COUNTER)}',
            work_dir=str(work_dir),
            launcher='none',
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def environment(**changes):
    """Variables of a process that finds mmkd and this module, with one thread."""
    paths = [str(ROOT / 'tests'), str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    threads = dict(OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(paths))
    return dict(os.environ, **threads, **changes)


def loader(shuffle):
    return dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        dataset=dict(type='NoisyDataset', size=12),
    )
