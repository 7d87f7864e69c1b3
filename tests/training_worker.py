"""A whole training from a config, under torchrun; every rank saves its weights.

training_worker.py OUT CONFIG
"""

import sys

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmkd.utils.distributed import init_cpu_distributed

if __name__ == '__main__':
    init_cpu_distributed('pytorch')
    runner = Runner.from_cfg(Config.fromfile(sys.argv[2]))
    runner.train()
    torch.save(runner.model.module.state_dict(), f'{sys.argv[1]}.{torch.distributed.get_rank()}')
