"""On a real Slurm of one node (Debian's slurm-wlm and munge, as root): pytest -m slurm"""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures('unformatted_configs')]


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    import conftest

    if not all(
        shutil.which(name, path='/usr/sbin:/usr/bin')
        for name in ('munged', 'slurmctld', 'slurmd', 'srun')
    ):
        pytest.skip('needs slurm-wlm and munge')
    folder, script = tmp_path_factory.mktemp('slurm'), str(conftest.ROOT / 'tests/slurm_cluster.sh')
    # Not captured: the daemons would hold the pipes open.
    log = open(folder / 'start.log', 'w')
    environment = dict(os.environ, SLURM_TEST_PORT='17917')
    assert (
        subprocess.run(
            ['bash', script, 'start', str(folder)], env=environment, stdout=log, stderr=log
        ).returncode
        == 0
    ), (folder / 'start.log').read_text()
    yield dict(
        os.environ,
        SLURM_CONF=str(folder / 'slurm.conf'),
        OMP_NUM_THREADS='1',
        PYTHON=sys.executable,
    )
    subprocess.run(['bash', script, 'stop', str(folder)], check=True, stdout=log, stderr=log)


def write_config(toolkit, data, folder, epochs):
    cfg = toolkit.small_config(data, folder / 'work')
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.train_dataloader.batch_size = 2
    cfg.dump(folder / 'config.py')


def call(environment, folder, *command, timeout=400):
    return subprocess.run(
        list(map(str, command)),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def until(condition, seconds=240):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.3)


def test_two_tasks_train_and_test_with_one_log_and_one_set_of_checkpoints(
    toolkit, data, tmp_path, cluster
):
    write_config(toolkit, data, tmp_path, epochs=1)
    environment = dict(cluster, GPUS='2', GPUS_PER_NODE='0', CPUS_PER_TASK='1', PORT='29581')
    done = call(
        environment,
        tmp_path,
        'bash',
        toolkit.ROOT / 'tools/slurm_train.sh',
        'cpu',
        'kdml',
        'config.py',
        'work',
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert [p.name for p in (tmp_path / 'work').glob('epoch_*.pth')] == ['epoch_1.pth']
    (log,) = (tmp_path / 'work').glob('2*/*.log')
    assert (
        '[3/3]' in log.read_text() and '[6/6]' not in log.read_text()
    )  # 12 frames over 2 tasks of 2
    done = call(
        environment,
        tmp_path,
        'bash',
        toolkit.ROOT / 'tools/slurm_test.sh',
        'cpu',
        'test',
        'config.py',
        'work/epoch_1.pth',
        '--work-dir',
        'tested',
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert len([line for line in done.stdout.splitlines() if line.startswith('ensemble ')]) == 1


def test_a_warned_job_saves_requeues_and_ends_as_an_unbroken_one(toolkit, data, tmp_path, cluster):
    """The sbatch template with two torchrun processes; SIGTERM in the middle of an epoch."""
    whole = tmp_path / 'whole'
    whole.mkdir()
    write_config(toolkit, data, whole, epochs=12)
    write_config(toolkit, data, tmp_path, epochs=12)
    environment = dict(cluster, PROCESSES='2', MMKD_TOOLS=str(toolkit.ROOT / 'tools'), PORT='29583')
    template = toolkit.ROOT / 'tools/slurm_job.sh'
    for folder in (whole, tmp_path):
        done = call(
            environment,
            folder,
            'sbatch',
            '-p',
            'cpu',
            '-N',
            '1',
            '-c',
            '2',
            '-o',
            'job.log',
            template,
            'config.py',
            'work',
        )
        assert done.returncode == 0, done.stderr
        job = done.stdout.split()[-1]
        log = folder / 'job.log'
        if folder is tmp_path:
            until(
                lambda: log.is_file() and re.search(r'Epoch\(train\) +\[ *[2-9]\]', log.read_text())  # noqa: B023
            )
            # What Slurm does at `--signal=TERM@90`.
            assert call(environment, folder, 'scancel', '--signal=TERM', job).returncode == 0
            until(lambda: list((folder / 'work').glob('preempted_iter_*.pth')))  # noqa: B023
        until(lambda: (folder / 'work/epoch_12.pth').is_file(), 600)  # noqa: B023
    assert (
        'saved preempted_iter_' in log.read_text()
        and '--resume: work/preempted_iter_' in log.read_text()
    )
    one, other = (
        torch.load(folder / 'work/epoch_12.pth', weights_only=False)['state_dict']
        for folder in (whole, tmp_path)
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())
