import importlib.util
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.usefixtures('unformatted_configs')


def torchrun(*command, cwd=None):
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone', *command],
                          capture_output=True, text=True, cwd=cwd, env=environment, timeout=600)


@pytest.mark.parametrize('sharing', ['individual', 'kdml_f'])
def test_two_processes_step_like_one_on_the_joined_batch(toolkit, tmp_path, sharing):
    path = toolkit.ROOT / 'tests/distributed_worker.py'
    done = torchrun(str(path), str(tmp_path / 'two.pth'), sharing)
    assert done.returncode == 0, done.stderr[-2000:]
    spec = importlib.util.spec_from_file_location('distributed_worker', path)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    one = worker.one_step(toolkit.make_batch(4), False, sharing)
    two = torch.load(tmp_path / 'two.pth', weights_only=True)
    torch.manual_seed(0)
    start = toolkit.make_distiller(sharing=sharing).state_dict()
    for name in ('teacher', 'student1', 'student2'):
        keys = [k for k in one if k.startswith(f'members.{name}.') and one[k].is_floating_point()]
        step = torch.cat([(one[k] - start[k]).flatten() for k in keys])
        difference = torch.cat([(one[k] - two[k]).flatten() for k in keys])
        assert step.norm() > 0 and difference.norm() < 1e-4 * step.norm(), name


def test_training_by_two_processes_on_cpu(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path / 'work')
    cfg.train_cfg.max_epochs = 1
    cfg.train_dataloader.batch_size = 3
    cfg.dump(tmp_path / 'config.py')
    done = torchrun(str(toolkit.ROOT / 'tools/train.py'), str(tmp_path / 'config.py'), '--launcher', 'pytorch')
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'work/epoch_1.pth').is_file() and len(list((tmp_path / 'work').glob('*/*.log'))) >= 1
    assert '[2/2]' in done.stdout and '[4/4]' not in done.stdout  # 12 frames over 2 ranks of 3
