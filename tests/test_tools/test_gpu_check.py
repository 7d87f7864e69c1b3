"""tools/gpu_check.sh with a stand-in for Python that notes what it is asked for."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in *"$FAILS"*) [ -n "$FAILS" ] && { echo "it broke"; exit 3; };; esac
while [ $# -gt 0 ]; do [ "$1" != --json ] || echo '{"seconds": 1}' > "$2"; shift; done
echo "a table"
"""


@pytest.fixture
def call(tmp_path):
    python = tmp_path / 'venv/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)

    def call(*arguments, fails=''):
        env = dict(os.environ, MMKD_VENV=str(tmp_path / 'venv'), CALLS=str(tmp_path / 'calls'))
        command = ['bash', str(ROOT / 'tools/gpu_check.sh'), '--out', str(tmp_path / 'out')]
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=dict(env, FAILS=fails)
        )
        calls = tmp_path / 'calls'
        return done, calls.read_text().splitlines() if calls.exists() else []

    return call


def test_a_dry_run_keeps_each_part(call, tmp_path):
    done, calls = call('--dry-run', fails='segformer_b2_512.py --steps 1')
    assert done.returncode == 1 and 'not finished: segformer_b2_512' in done.stdout
    assert any('pytest -m gpu' in line for line in calls)
    assert sum('tools/benchmark.py' in line for line in calls) == 13
    turns = next(line for line in calls if 'resnet50_224.py' in line and '--members 3' in line)
    assert 'train_dataloader.batch_size=2' in turns
    found = json.loads((tmp_path / 'out/gpu_check.json').read_text())['parts']
    assert found['segformer_b2_512'].keys() == {'status', 'seconds', 'end'}
    assert found['segformer_b2_512']['end'] == ['it broke']
    assert found['yolox_m_640']['figures'] == {'seconds': 1}
    assert found['processes']['status'] == 'ok'
    table = (tmp_path / 'out/gpu_check.md').read_text()
    assert '| segformer_b2_512 | 3 |' in table and '### resnet50_224_compiled' in table


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--minutes', 'x'], '--minutes: expected a number'),
        (['--wheels', 'none'], "--wheels: no folder 'none'"),
        (['--fast'], 'unknown option --fast'),
    ],
)
def test_wrong_arguments(call, arguments, message):
    done, calls = call('--dry-run', *arguments)
    assert done.returncode == 1 and message in done.stderr and not calls


def test_the_help_is_the_header_alone(call):
    done, _ = call('--help')
    assert done.returncode == 0 and 'MMKD_VENV' in done.stdout and 'source ' not in done.stdout


def test_files_of_others_stay(call, tmp_path):
    """The out folder is of the caller's folder, and replaced only if it holds an earlier check."""
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/README.md').write_text('mine')
    done, calls = call('--dry-run')
    assert done.returncode == 1 and 'is not empty and holds no earlier check' in done.stderr
    assert not calls and (tmp_path / 'out/README.md').read_text() == 'mine'
