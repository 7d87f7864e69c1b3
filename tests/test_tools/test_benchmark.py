import os
import subprocess
import sys


def test_joint_step_against_plain_steps(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path / 'work')
    cfg.dump(tmp_path / 'config.py')
    done = subprocess.run(
        [
            sys.executable,
            str(toolkit.ROOT / 'tools/benchmark.py'),
            str(tmp_path / 'config.py'),
            '--steps',
            '2',
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {
        line.split()[0]: line.split() for line in done.stdout.splitlines() if len(line.split()) == 3
    }
    assert {'teacher', 'student1', 'student2', 'joint'} <= set(rows)
    assert all(
        float(rows[name][1]) > 0 and float(rows[name][2]) > 0 for name in ('teacher', 'joint')
    )
    assert 'joint / sum: time' in done.stdout
