import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize('steps', [0, 1])
def test_the_table(toolkit, steps):
    names = ['FCOS', 'RetinaNet', 'ATSS'] if steps == 0 else ['FCOS', 'RetinaNet']
    done = subprocess.run(
        [
            sys.executable,
            str(toolkit.ROOT / 'tools/detector_pairs.py'),
            *('--detectors', *names, '--steps', str(steps)),
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'FCOS and RetinaNet: boxes' in done.stdout
    table = [line.split('|')[1:-1] for line in done.stdout.splitlines() if line.startswith('|')]
    rows = [[cell.strip() for cell in row] for row in table[2:]]
    form = 'position by position'
    if steps == 0:
        assert rows == [['FCOS, ATSS', form], ['RetinaNet', form]]
    else:
        assert [row[:3] for row in rows] == [[name, form, name] for name in names]
        assert all(float(row[3].split()[0]) > 0 for row in rows)
