"""Weak scaling: as many images a process, with more and more processes."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from mmkd.apis.benchmark import Step, cached_batches, copy_batch, prepare
from mmkd.engine.parallel import MemberDistributedDataParallel
from mmkd.utils.errors import ConfigError


class Reduced:
    """Counts the all_reduces of a step and their bytes."""

    def __init__(self) -> None:
        self.calls = self.bytes = 0
        self._all_reduce = dist.all_reduce

    def add(self, tensor: Tensor) -> None:
        """Count one."""
        self.calls += 1
        self.bytes += tensor.numel() * tensor.element_size()

    def __enter__(self) -> 'Reduced':
        def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.add(tensor)
            return self._all_reduce(tensor, *args, **kwargs)

        self.calls = self.bytes = 0
        dist.all_reduce = counted
        return self

    def __exit__(self, *error: Any) -> None:
        dist.all_reduce = self._all_reduce


def reduce_bucket(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients by Python's all_reduce, which is counted."""
    return allreduce_hook(group, bucket)


def measure_rank(config_file: str, options: Mapping[str, Any], steps: int) -> dict[str, float]:
    """Measure this process's steps; all of a torchrun call it.

    Returns:
        `seconds` and `cpu` (of the process), medians of a step; `calls` and `bytes`, what one step
        reduces; `least`, the bytes of the trained parameters' gradients.
    """
    cfg = prepare(config_file, options)
    local = int(os.environ['LOCAL_RANK'])
    device = f'cuda:{local}' if torch.cuda.is_available() else 'cpu'
    batches = cached_batches(cfg, min(steps, 4))  # the sampler gives each rank its own
    step, reduced = Step(cfg, device), Reduced()
    distiller = step.model
    step.model = MemberDistributedDataParallel(
        distiller, device_ids=None if device == 'cpu' else [local], broadcast_buffers=False
    )
    step.model.register_comm_hook(None, reduce_bucket)
    step.model.update_ema_members = distiller.update_ema_members
    seconds, cpu = [], []
    with reduced:
        for index in range(steps + 2):
            reduced.calls = reduced.bytes = 0
            dist.barrier()
            busy = time.process_time()
            spent = step(copy_batch(batches[index % len(batches)]))
            if index >= 2:  # the first ones allocate
                seconds.append(spent)
                cpu.append(time.process_time() - busy)
    trained = [p for p in distiller.parameters() if p.requires_grad]
    return dict(
        seconds=statistics.median(seconds),
        cpu=statistics.median(cpu),
        calls=reduced.calls,
        bytes=reduced.bytes,
        least=sum(p.numel() * p.element_size() for p in trained),
    )


def run_as_rank(config_file: str, options: Mapping[str, Any], steps: int) -> None:
    """Join the torchrun's processes, measure, and print rank 0's figures as JSON."""
    from mmkd.utils.distributed import init_cpu_distributed, leave_distributed

    if not init_cpu_distributed('pytorch'):
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        dist.init_process_group('nccl')
    found = measure_rank(config_file, options, steps)
    if dist.get_rank() == 0:
        print(json.dumps(found))
    leave_distributed()


def weak_scaling(command: Sequence[str], counts: Sequence[int]) -> dict[int, dict[str, float]]:
    """Start a torchrun of each number of processes; return what rank 0 measured.

    Args:
        command: Script and arguments that end in `run_as_rank`.
        counts: Numbers of processes.

    Raises:
        ConfigError: If a rank fails.
    """
    found = {}
    for count in counts:
        launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={count}']
        done = subprocess.run([sys.executable, *launch, *command], capture_output=True, text=True)
        if done.returncode:
            raise ConfigError(f'{count} processes: {done.stderr.strip()[-800:]}')
        found[count] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def scaling_table(found: Mapping[int, Mapping[str, float]], steps: int) -> str:
    """Format what `weak_scaling` has found; efficiency is the first row's time over the row's."""
    from mmkd.utils.text import align

    heads = ['step, s', 'efficiency', 'CPU a process, s', 'all_reduces', 'MB', 'least MB']
    rows, first = [['processes', *heads]], next(iter(found.values()))
    for count, row in found.items():
        rows.append(
            [
                str(count),
                f'{row["seconds"]:.3f}',
                f'{first["seconds"] / row["seconds"]:.2f}',
                f'{row["cpu"]:.3f}',
                str(row['calls']),
                f'{row["bytes"] / 1e6:.3f}',
                f'{row["least"] / 1e6:.3f}',
            ]
        )
    return (
        f'{align(rows)}\n(medians of {steps} steps; bytes that each process gives to all_reduce in '
        f'a step, {os.cpu_count()} cores)'
    )
