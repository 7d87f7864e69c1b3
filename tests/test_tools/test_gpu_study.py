"""tools/gpu_study.sh with a stand-in for Python that notes what it is asked for."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/usr/bin/env bash
if [ "$1" = - ]; then cat >/dev/null; echo "$MISSING"; exit; fi
echo "$*" >> "$CALLS"
case "$*" in *"$FAILS"*) [ -n "$FAILS" ] && exit 3;; esac
exit 0
"""


@pytest.fixture
def call(tmp_path):
    python = tmp_path / 'venv/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)

    def call(*arguments, missing='', fails=''):
        env = dict(os.environ, MMKD_VENV=str(tmp_path / 'venv'), CALLS=str(tmp_path / 'calls'))
        env.update(MISSING=missing, FAILS=fails, MMKD_TRIAL_OPTIONS='a.b=1 c=2')
        command = ['bash', str(ROOT / 'tools/gpu_study.sh'), '--out', str(tmp_path / 'out')]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=env)
        calls = tmp_path / 'calls'
        return done, calls.read_text().splitlines() if calls.exists() else []

    return call


def test_a_dry_run_tries_each_plan_and_collects(call, tmp_path):
    done, calls = call('--dry-run')
    assert done.returncode == 0, done.stderr
    plans = [f'docs/studies/{name}/plan.py' for name in ('gpu_tiny', 'tiny20_noise', 'gpu_kvasir')]
    options = 'train_cfg.max_epochs=1 train_cfg.val_interval=1 a.b=1 c=2'
    assert calls == [
        line
        for plan in plans
        for line in (
            f'tools/study.py run {plan} --jobs 1 --trial --seeds 0 --cfg-options {options}',
            f'tools/study.py report {plan} --trial',
        )
    ]
    assert (tmp_path / 'out.tar.gz').is_file() and (tmp_path / 'out/gpu_tiny').is_dir()


def test_a_study_that_fails_or_lacks_data_does_not_stop_the_others(call):
    done, calls = call('--dry-run', fails='run docs/studies/gpu_tiny')
    assert done.returncode == 1 and 'not finished: gpu_tiny' in done.stdout
    assert any('run docs/studies/gpu_kvasir' in line for line in calls)
    done, calls = call('--dry-run', 'docs/studies/gpu_tiny/plan.py', missing='data/x')
    assert done.returncode == 1 and 'gpu_tiny: left out, no data/x' in done.stdout


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--minutes', '0'], '--minutes: expected a number'),
        (['--fast'], 'unknown option --fast'),
        (['docs/none.py'], 'no plan docs/none.py'),
    ],
)
def test_wrong_arguments(call, arguments, message):
    done, calls = call('--dry-run', *arguments)
    assert done.returncode == 1 and message in done.stderr and not calls


def test_without_a_gpu_it_says_so(call, monkeypatch, tmp_path):
    names = ('bash', 'dirname', 'mkdir', 'basename', 'date', 'cat', 'sed')
    (tmp_path / 'bin').mkdir()
    for name in names:
        found = subprocess.run(['which', name], capture_output=True, text=True).stdout.strip()
        (tmp_path / 'bin' / name).symlink_to(found)
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    done, calls = call()
    assert done.returncode == 1 and 'no NVIDIA driver' in done.stderr and not calls
