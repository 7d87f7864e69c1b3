"""Three steps of two YOLOX by two ranks, one of which gets a broken image in the second.

torchrun --nproc_per_node=2 tests/broken_rank_worker.py OUT
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
import conftest as toolkit  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402

from mmkd.engine.parallel import MemberDistributedDataParallel  # noqa: E402


def main(out):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', timeout=timedelta(seconds=60))
    register_all_modules()
    rank = dist.get_rank()
    model = toolkit.make_distiller(members=toolkit.members(students=2), sharing='kdml_p')
    model.progress = 0.5
    parallel = MemberDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    wrapper = toolkit.optim_wrapper(parallel)
    skipped, sums = [], []
    for step in range(3):
        batch = toolkit.make_batch(seed=10 * step + rank)
        if step == rank == 1:
            batch['inputs'][0] = batch['inputs'][0] * float('nan')
        parallel.train_step(batch, wrapper)
        skipped.append(list(wrapper.skipped))
        sums.append(sum(p.double().sum().item() for p in model.parameters()))
    torch.save(dict(skipped=skipped, sums=sums), f'{out}{rank}')
    dist.destroy_process_group()


if __name__ == '__main__':
    main(sys.argv[1])
