"""torchrun's failures in one line, with the status of the process that failed first."""

import subprocess
import sys

import pytest
from light_training import environment


@pytest.mark.parametrize(
    'program, status, told',
    [
        ('import sys; sys.exit(99)', 99, 'exit status 99'),
        ('import os; os.kill(os.getpid(), 9)', 137, 'SIGKILL'),
    ],
)
def test_a_failure_is_one_line(tmp_path, program, status, told):
    (tmp_path / 'program.py').write_text(program)
    done = subprocess.run(
        [sys.executable, '-m', 'mmkd.apis.launch', '--standalone', str(tmp_path / 'program.py')],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
    )
    assert done.returncode == status, done.stderr[-2000:]
    assert f'process 0 ended first, by {told}' in done.stderr and 'Traceback' not in done.stderr
