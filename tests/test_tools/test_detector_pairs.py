import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize('steps', [0, 1])
def test_the_table_of_two_detectors(toolkit, steps):
    done = subprocess.run(
        [
            sys.executable,
            str(toolkit.ROOT / 'tools/detector_pairs.py'),
            *('--detectors', 'FCOS', 'RetinaNet', '--steps', str(steps)),
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'FCOS and RetinaNet: boxes' in done.stdout
    rows = [line.split('|')[1:-1] for line in done.stdout.splitlines() if line.startswith('|')]
    assert [row[0].strip() for row in rows[2:]] == ['FCOS', 'RetinaNet']
    for row in rows[2:]:
        assert row[1].strip() == 'position by position' and row[2] == row[0]
        assert len(row) == 3 + steps
        if steps:
            assert float(row[3].split()[0]) > 0
