"""The shell launchers with real processes; a script stands in for `srun` and starts the tasks."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from light_training import ROOT, environment, light_config

SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$SRUN_LOG"
while [[ "$1" == -* ]]; do
    case "$1" in -p) shift 2;; --ntasks=*) N="${1#*=}"; shift;; *) shift;; esac
done
export SLURM_NTASKS=$N SLURM_NODELIST=localhost MASTER_ADDR=127.0.0.1 MASTER_PORT=$TEST_PORT
for ((i = 0; i < N; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & PIDS+=($!); done
STATUS=0; for pid in "${PIDS[@]}"; do wait "$pid" || STATUS=$?; done; exit $STATUS
"""

WAITS = """import os, pathlib, signal, sys, time
def leave(number, frame):
    pathlib.Path('left_' + os.environ['RANK']).touch()
    sys.exit(99)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, leave)
pathlib.Path('up_' + os.environ['RANK']).touch()
time.sleep(300)
"""

pytestmark = pytest.mark.usefixtures('unformatted_configs')


@pytest.fixture
def config(tmp_path):
    cfg = light_config(tmp_path / 'work')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.train_dataloader.batch_size = 3
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def call(toolkit, script, *arguments, **variables):
    return subprocess.run(
        ['bash', str(toolkit.ROOT / 'tools' / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(PYTHON=sys.executable, PORT='29571', **variables),
        timeout=600,
    )


def test_dist_train_then_dist_test(toolkit, config, tmp_path):
    done = call(toolkit, 'dist_train.sh', config, 2)
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = tmp_path / 'work/epoch_1.pth'
    assert checkpoint.is_file() and list((tmp_path / 'work').glob('*/*.log'))
    assert '[2/2]' in done.stdout and '[4/4]' not in done.stdout  # 12 images over 2 ranks of 3
    done = call(toolkit, 'dist_test.sh', config, checkpoint, 2, '--work-dir', tmp_path / 'test')
    assert done.returncode == 0, done.stderr[-2000:]
    table = [line for line in done.stdout.splitlines() if line.startswith(('member ', 'ensemble '))]
    assert len(table) == 2, 'one table, by rank 0 alone'


def test_slurm_train(toolkit, config, tmp_path):
    srun = tmp_path / 'bin/srun'
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    done = call(
        toolkit,
        'slurm_train.sh',
        'cpu',
        'kdml',
        config,
        tmp_path / 'slurm',
        '--cfg-options',
        'train_cfg.val_interval=9',
        PATH=f'{srun.parent}:{os.environ["PATH"]}',
        SRUN_LOG=str(tmp_path / 'srun.log'),
        TEST_PORT='29572',
        GPUS='2',
        GPUS_PER_NODE='0',
        CPUS_PER_TASK='1',
        SRUN_ARGS='--mem=1G --quiet',
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'slurm/epoch_1.pth').is_file() and len(
        list((tmp_path / 'slurm').glob('2*/*.log'))
    ) == 1
    asked = (tmp_path / 'srun.log').read_text()
    assert '-p cpu --job-name=kdml --ntasks=2 --ntasks-per-node=2 --cpus-per-task=1' in asked
    assert '--mem=1G --quiet' in asked and 'gres' not in asked


@pytest.mark.parametrize(
    'script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh']
)
def test_missing_arguments_show_the_usage(toolkit, script):
    done = call(toolkit, script, 'config.py')
    assert done.returncode == 2 and f'tools/{script}' in done.stderr


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_reaches_every_process(toolkit, tmp_path, number):
    """torchrun itself would die of SIGUSR1 and leave its processes alone."""
    shutil.copy(toolkit.ROOT / 'tools/dist_train.sh', tmp_path)
    (tmp_path / 'train.py').write_text(WAITS)
    environment = dict(os.environ, PYTHON=sys.executable, PORT='29577', OMP_NUM_THREADS='1')
    command = ['bash', str(tmp_path / 'dist_train.sh'), 'config.py', '2']
    launcher = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while len(list(tmp_path.glob('up_*'))) < 2:
            assert launcher.poll() is None
            time.sleep(0.05)
        launcher.send_signal(number)
        assert launcher.wait(120) != 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    assert {path.name for path in tmp_path.glob('left_*')} == {'left_0', 'left_1'}


@pytest.mark.parametrize(
    'note, text, requeued',
    [
        ('last_checkpoint', 'work/preempted_iter_3.pth', True),
        ('last_checkpoint', 'work/epoch_1.pth', False),
        ('pretrain_preempted', 'elsewhere/preempted_iter_3.pth', True),
        (None, '', False),
    ],
)
def test_a_job_is_put_back_in_the_queue_where_it_was_preempted(
    toolkit, tmp_path, note, text, requeued
):
    """In the training or in the stage before, but not where it failed."""
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/last_checkpoint').write_text('work/preempted_iter_1.pth')
    os.utime(tmp_path / 'work/last_checkpoint', (0, 0))  # an earlier job's
    saves = f'sleep 0.1; printf {text} > work/{note}; ' if note else ''
    for name, script in (('srun', f'{saves}exit 1'), ('scontrol', 'echo "$*" >> calls')):
        (tmp_path / name).write_text(f'#!/usr/bin/env bash\n{script}\n')
        (tmp_path / name).chmod(0o755)
    variables = dict(
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        SLURM_JOB_ID='42',
        SLURM_JOB_NODELIST='node',
        SLURM_NNODES='1',
        SLURM_SUBMIT_DIR=str(toolkit.ROOT),
    )
    done = subprocess.run(
        ['bash', str(toolkit.ROOT / 'tools/slurm_job.sh'), 'config.py', 'work'],
        env=environment(**variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stderr
    assert ('requeue 42' in (tmp_path / 'calls').read_text()) == requeued


# Not empty where they are expanded.
FILLED = {'gpu_study.sh': {'PLANS'}, 'gpu_check.sh': {'TRIAL', 'options'}}


@pytest.mark.parametrize('script', sorted((ROOT / 'tools').glob('*.sh')), ids=lambda p: p.name)
def test_arrays_may_be_empty(script):
    """Where nothing is set in one, `set -u` ends a bash before 4.4 at "${NAME[@]}"."""
    text = script.read_text()
    begun = re.findall(r'(\w+)=\(\)|(?:read|mapfile)(?: -\w)* (\w+)', text)
    for name in {one or other for one, other in begun} - FILLED.get(script.name, set()):
        guarded = f'${{{name}[@]+"${{{name}[@]}}"}}'
        assert f'${{{name}[@]}}' not in text.replace(guarded, ''), name
