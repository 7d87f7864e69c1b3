import atexit
import gc
import os
import subprocess
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import all_reduce, broadcast, get_world_size
from torch import Tensor, nn

from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError

# By launcher, the variables of rank, number of processes and rank on the node: Open MPI's (as
# mmengine reads), else PMI's (MPICH, Intel MPI).
VARIABLES = {
    'slurm': [('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')],
    'mpi': [
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
        ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID'),
    ],
}


def init_cpu_distributed(launcher: str) -> bool:
    """Start torch.distributed with gloo on a machine without GPU; with one, do nothing.

    mmengine's own start calls `torch.cuda.set_device` whatever the backend; it is skipped once
    there is a process group.

    Args:
        launcher: `none`, `pytorch` (torchrun's environment variables), `slurm` or `mpi` (theirs,
            for one node or several; with `mpi` and several nodes MASTER_ADDR must be set).

    Returns:
        Whether training is distributed over CPUs.

    Raises:
        ConfigError: If the launcher's variables are not set: the process was not started by it.
    """
    if launcher == 'none' or torch.cuda.is_available():
        return False
    if dist.is_initialized():
        return True
    choose(launcher, ['none', 'pytorch', *VARIABLES], 'launcher')
    if launcher in VARIABLES:
        _name_ranks(launcher)
    missing = [
        name
        for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
        if name not in os.environ
    ]
    if missing:
        raise ConfigError(
            f'--launcher {launcher}: {", ".join(missing)} not set in the environment; start the '
            'tool with torchrun (tools/dist_train.sh does)'
        )
    dist.init_process_group('gloo')
    atexit.register(leave_distributed)
    return True


def leave_distributed() -> None:
    """End the process group, if there is one, and its threads with it.

    Gloo's threads that outlive Python's end can abort the process (pytorch/pytorch #190489). They
    end with the last reference to the group, so what holds one, such as a DDP model in a cycle of
    references, goes first.
    """
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _name_ranks(launcher: str) -> None:
    """Set torch's variables from the launcher's."""
    found = next(
        (
            names
            for names in VARIABLES[launcher]
            if names[0] in os.environ and names[1] in os.environ
        ),
        None,
    )
    if found is None:
        expected = ' or '.join(f'{rank}, {size}' for rank, size, _ in VARIABLES[launcher])
        raise ConfigError(
            f'--launcher {launcher}: expected {expected} in the environment; start the tool with '
            + ('srun (tools/slurm_train.sh does)' if launcher == 'slurm' else 'mpirun')
        )
    rank, size, local = (os.environ.get(name, '0') for name in found)
    os.environ.update(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=local)
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' in os.environ:
        return
    if launcher == 'slurm':
        names = subprocess.run(
            ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']],
            capture_output=True,
            text=True,
            check=True,
        )
        os.environ['MASTER_ADDR'] = names.stdout.split()[0]
    elif os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE', size) == size:
        os.environ['MASTER_ADDR'] = '127.0.0.1'
    else:
        raise ConfigError(
            '--launcher mpi: several nodes: set MASTER_ADDR to the host of rank 0 '
            '(mpirun -x MASTER_ADDR=...)'
        )


def check_parallel(cfg: Any) -> None:
    """Raise a ConfigError if a config asks for a distributed training that is not possible.

    Sharded parameters and engines that own the optimizer know one optimizer for one model; members
    have one each. SyncBatchNorm needs GPUs.

    Args:
        cfg: The whole config.
    """
    if (
        cfg.get('sync_bn') is not None
        and cfg.get('launcher', 'none') != 'none'
        and not torch.cuda.is_available()
    ):
        raise ConfigError(
            f'sync_bn: {cfg.sync_bn!r}, but SyncBatchNorm needs GPUs; on CPUs leave it out (each '
            "process then normalizes by its own images; norm_cfg type 'GN' does not depend on them)"
        )
    if not (cfg.get('model') or {}).get('members'):
        return
    supported = dict(
        model_wrapper_cfg=['MMDistributedDataParallel', 'MemberDistributedDataParallel'],
        strategy=['SingleDeviceStrategy', 'DDPStrategy'],
    )
    for key, valid in supported.items():
        kind = (cfg.get(key) or {}).get('type', valid[0])
        name = kind if isinstance(kind, str) else kind.__name__
        if name.split('.')[-1] not in valid:
            raise ConfigError(
                f'{key}.type: {name} (FSDP, DeepSpeed, ColossalAI, ...) cannot train an '
                'OnlineDistiller, whose members have an optimizer each; valid: '
                f'{", ".join(valid)}'
            )


def check_sync_bn(networks: Mapping[str, nn.Module]) -> None:
    """Raise a ConfigError if a training distributed over CPUs has synchronized batch norms.

    torch has them for GPUs alone.

    Args:
        networks: The members' networks by name.
    """
    if get_world_size() == 1 or torch.cuda.is_available():
        return
    for member, network in networks.items():
        for name, module in network.named_modules():
            if isinstance(module, nn.SyncBatchNorm):
                raise ConfigError(
                    f'model.members.{member}: {name} is a SyncBatchNorm, which needs GPUs; on '
                    "CPUs set its norm_cfg's type to 'BN' or 'GN' by `options`"
                )


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a detached scalar over the ranks of a distributed training.

    When gradients are disabled (build-time probe, single-rank inspection) no collective is run and
    the value is returned as is.
    """
    if get_world_size() == 1 or not torch.is_grad_enabled():
        return value
    value = value.detach().clone()
    all_reduce(value, 'mean')
    return value


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0 (running statistics), which checkpoints hold."""
    if get_world_size() > 1:
        for buffer in model.buffers():
            broadcast(buffer, 0)
