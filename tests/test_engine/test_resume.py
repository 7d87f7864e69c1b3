"""Resumed runs against unbroken ones, where epochs end in the middle of accumulated gradients."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from light_training import environment

pytestmark = pytest.mark.usefixtures('unformatted_configs')
WORKER = Path(__file__).parents[1] / 'resume_worker.py'
spec = importlib.util.spec_from_file_location('resume_worker', WORKER)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)


@pytest.mark.parametrize(
    'options', [{}, dict(dot=True), dict(workers=2, accumulate=1, unlabeled=True)]
)
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, options):
    assert worker.unequal(tmp_path, **options) == []


def test_a_resumed_run_equals_an_unbroken_one_on_two_ranks(tmp_path):
    """With unlabeled images, DOT, another seed on each rank, and draws that depend on the image."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    done = subprocess.run(
        [*command, str(WORKER), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
