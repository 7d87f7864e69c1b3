"""Run by torchrun in test_distributed.py: one step on this rank's share of a batch; rank 0 saves the weights."""
# Called with `ie` and a config: a whole training; both ranks save their weights.
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmdet.utils import register_all_modules
from mmengine.model import MMDistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))
import conftest as toolkit  # noqa: E402


def one_step(batch, wrap, sharing):
    """Weights after one step; norms are frozen, since each rank has its own batch statistics."""
    torch.manual_seed(0)
    model = toolkit.make_distiller(sharing=sharing)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False) if wrap else model
    wrapper = toolkit.optim_wrapper(wrapped, optimizer=dict(type='SGD', lr=0.01))
    log = wrapped.train_step(batch, wrapper)
    assert all(torch.isfinite(v) for v in log.values())
    return model.state_dict()


if __name__ == '__main__':
    from mmkd.utils.distributed import init_cpu_distributed
    register_all_modules(True)
    init_cpu_distributed('pytorch')
    rank = dist.get_rank()
    if sys.argv[2] == 'ie':
        from mmengine.config import Config
        from mmengine.runner import Runner
        runner = Runner.from_cfg(Config.fromfile(sys.argv[3]))
        runner.train()
        torch.save(runner.model.module.state_dict(), f'{sys.argv[1]}.{rank}')
        sys.exit()
    batch = toolkit.make_batch(4)
    half = {key: value[rank * 2:rank * 2 + 2] for key, value in batch.items()}
    state = one_step(half, True, sys.argv[2])
    gathered = [None, None]
    dist.all_gather_object(gathered, {k: v.double().sum().item() for k, v in state.items()})
    assert gathered[0] == gathered[1], 'ranks differ'
    if rank == 0:
        torch.save(state, sys.argv[1])
    dist.destroy_process_group()
