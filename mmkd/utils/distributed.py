import os

import torch
import torch.distributed as dist


def init_cpu_distributed(launcher):
    """Start torch.distributed with gloo on a machine without GPU; does nothing where there is one, or for `none`.

    mmengine's own start calls `torch.cuda.set_device` whatever the backend; it is skipped once a process group is there.

    Args:
        launcher (str): `none`, `pytorch` (torchrun's environment variables) or `slurm` (SLURM's, for one node or several).

    Returns:
        bool: Whether training is distributed over CPUs.
    """
    if launcher == 'none' or torch.cuda.is_available():
        return False
    if dist.is_initialized():
        return True
    if launcher == 'slurm':
        os.environ['RANK'], os.environ['WORLD_SIZE'] = os.environ['SLURM_PROCID'], os.environ['SLURM_NTASKS']
        os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', '0')
        os.environ.setdefault('MASTER_PORT', '29500')
        if 'MASTER_ADDR' not in os.environ:
            import subprocess
            nodes = os.environ['SLURM_NODELIST']
            names = subprocess.run(['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=True)
            os.environ['MASTER_ADDR'] = names.stdout.split()[0]
    elif launcher != 'pytorch':
        raise ValueError(f"launcher: on a machine without GPU expected 'pytorch' or 'slurm', got {launcher!r}")
    dist.init_process_group('gloo')
    return True
