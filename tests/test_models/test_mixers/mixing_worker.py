"""Run by torchrun in test_mixing_runs.py.

Some steps of two processes, each with batches and a seed of its own.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DefaultScope

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]
import conftest as toolkit  # noqa: E402
import mixing  # noqa: E402


def gather(value):
    gathered = [None, None]
    dist.all_gather_object(gathered, value)
    return gathered


def main():
    from mmkd.utils.distributed import init_cpu_distributed

    DefaultScope.get_instance('worker', scope_name='mmpretrain')
    init_cpu_distributed('pytorch')
    rank = dist.get_rank()
    torch.manual_seed(rank)
    model = toolkit.make_distiller(
        members=dict(student1=mixing.cifar(1), student2=mixing.cifar(2)),
        sharing='ml_p',
        data_preprocessor=dict(mixing.CLS, _scope_='mmpretrain'),
        mixer=dict(type='MetaMixer', global_prob=0.9),
    )
    drawn, call = [], model.mixer.draw
    model.mixer.draw = lambda: drawn.append(call()) or drawn[-1]
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    wrapper = toolkit.optim_wrapper(wrapped)
    start = model.state_dict()['members.student1.head.fc.weight'].clone()
    for step in range(8):
        batch = mixing.labelled(
            [0, 1, 2, 1, 0, 2] if rank else [0, 0, 1, 2, 2, 1], seed=10 * step + rank
        )
        log = wrapped.train_step(batch, wrapper)
        assert all(torch.isfinite(value) for value in log.values())
    one, two = gather(drawn)
    assert one == two and len({draw.depth for draw in one}) > 2, (one, two)
    one, two = gather({name: p.double().sum().item() for name, p in model.named_parameters()})
    assert one == two, 'ranks differ'
    assert not torch.equal(start, model.state_dict()['members.student1.head.fc.weight'])


if __name__ == '__main__':
    main()
