"""tools/gpu_study.sh with a stand-in for Python that notes what it is asked for."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ('gpu_tiny', 'gpu_noise', 'gpu_kvasir')
PYTHON = r"""#!/usr/bin/env bash
if [ "$1" = - ]; then cat >/dev/null; printf '7\n%s\n' "$MISSING"; exit; fi
echo "$*" >> "$CALLS"
case "$*" in *"$FAILS"*) [ -n "$FAILS" ] && exit 3;; esac
exit 0
"""


@pytest.fixture
def root(tmp_path):
    """A checkout with what the script reads, and no trained networks."""
    root = tmp_path / 'mmkd'
    (root / 'tools').mkdir(parents=True)
    for name in ('gpu_study.sh', 'setup_env.sh'):
        shutil.copy(ROOT / 'tools' / name, root / 'tools')
    for name in NAMES:
        (root / 'docs/studies' / name).mkdir(parents=True)
        shutil.copy(ROOT / 'docs/studies' / name / 'plan.py', root / 'docs/studies' / name)
    return root


@pytest.fixture
def trained(root):
    """Networks of a trial of gpu_kvasir: of another arm, an older and the newest."""
    names = ('labels_only_seed0/epoch_9', 'peers_ema_seed0/epoch_1', 'peers_ema_seed0/epoch_2')
    for age, name in zip((0, 20, 10), names):
        path = root / f'work_dirs/studies/gpu_kvasir_trial/{name}.pth'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    return path.relative_to(root)


@pytest.fixture
def call(tmp_path, root):
    python = tmp_path / 'venv/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)

    def call(*arguments, missing='', fails='', out=tmp_path / 'out', cwd=root):
        env = dict(os.environ, MMKD_VENV=str(tmp_path / 'venv'), CALLS=str(tmp_path / 'calls'))
        env.update(MISSING=missing, FAILS=fails, MMKD_TRIAL_OPTIONS='a.b=1 c=2')
        command = ['bash', str(root / 'tools/gpu_study.sh'), '--out', str(out), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd)
        calls = tmp_path / 'calls'
        return done, calls.read_text().splitlines() if calls.exists() else []

    return call


def test_a_dry_run_tries_each_plan_measures_the_latency_and_collects(call, tmp_path, trained):
    done, calls = call('--dry-run')
    assert done.returncode == 0, done.stderr
    plans = [f'docs/studies/{name}/plan.py' for name in NAMES]
    options = 'train_cfg.max_epochs=1 train_cfg.val_interval=1 a.b=1 c=2'
    latency = (
        f'tools/infer.py {trained} data/kvasir/images/val --out {tmp_path}/out/latency '
        '--member student1 student2 ensemble --limit 3 --latency 3 --no-draw'
    )
    assert calls.pop() == latency
    assert calls == [
        line
        for plan in plans
        for line in (
            f'tools/study.py run {plan} --jobs 1 --trial --seeds 7 --cfg-options {options}',
            f'tools/study.py report {plan} --trial',
        )
    ]
    with tarfile.open(tmp_path / 'out.tar.gz') as archive:
        assert {'out/gpu_tiny', 'out/gpu_kvasir', 'out/latency.txt'} <= set(archive.getnames())


def test_a_study_that_fails_or_lacks_data_does_not_stop_the_others(call, trained):
    done, calls = call('--dry-run', fails='run docs/studies/gpu_tiny')
    assert done.returncode == 1 and done.stdout.endswith('not finished: gpu_tiny\n')
    assert 'gpu_tiny: stopped before its end (status 3)' in done.stdout
    assert any('run docs/studies/gpu_kvasir' in line for line in calls)
    done, calls = call('--dry-run', 'docs/studies/gpu_tiny/plan.py', missing='data/x')
    assert done.returncode == 1 and 'gpu_tiny: left out, no data/x' in done.stdout


def test_folder_and_plan_are_those_of_the_folder_it_is_called_from(call, root, tmp_path):
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/plan.py').touch()
    done, calls = call('--dry-run', 'own/plan.py', out='kept/', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert calls[0].startswith(f'tools/study.py run {tmp_path}/own/plan.py ')
    assert (tmp_path / 'kept/own.log').is_file() and (tmp_path / 'kept.tar.gz').is_file()
    assert not (root / 'kept').exists()


def test_a_latency_that_cannot_be_measured_is_said(call):
    done, calls = call('--dry-run')
    assert done.returncode == 1 and 'latency: left out, no networks of gpu_kvasir' in done.stdout
    assert done.stdout.endswith('not finished: latency\n') and len(calls) == 6
    done, calls = call('--dry-run', 'docs/studies/gpu_tiny/plan.py')
    assert done.returncode == 0 and 'latency:' not in done.stdout


def test_a_latency_that_fails_is_said(call, trained):
    done, calls = call('--dry-run', fails='tools/infer.py')
    assert done.returncode == 1 and 'latency: failed (status 3)' in done.stdout


def test_the_help_has_the_options_and_what_the_plans_lack(call):
    done, calls = call('--help')
    assert done.returncode == 0 and not calls
    for text in ('--minutes', '--dry-run', 'JoCoR', 'torch.compile', 'ImageNet weights', 'GPU:'):
        assert text in done.stdout, text
    assert done.stdout.startswith('The studies') and 'pipefail' not in done.stdout


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--minutes', '0'], '--minutes: expected a number'),
        (['--fast'], 'unknown option --fast'),
        (['docs/none.py'], '/mmkd/docs/none.py'),
    ],
)
def test_wrong_arguments(call, arguments, message):
    done, calls = call('--dry-run', *arguments)
    assert done.returncode == 1 and message in done.stderr and not calls


def test_without_a_gpu_it_says_so(call, monkeypatch, tmp_path):
    names = ('bash', 'dirname', 'mkdir', 'basename', 'date', 'cat', 'sed', 'realpath')
    (tmp_path / 'bin').mkdir()
    for name in names:
        found = subprocess.run(['which', name], capture_output=True, text=True).stdout.strip()
        (tmp_path / 'bin' / name).symlink_to(found)
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    done, calls = call()
    assert done.returncode == 1 and 'no NVIDIA driver' in done.stderr and not calls


@pytest.mark.parametrize('name', NAMES)
def test_the_plans_train_in_bf16_and_their_arms_build(name):
    from mmengine.registry import MODELS, DefaultScope

    from mmkd.apis.study.plan import load_plan
    from mmkd.apis.study.results import check_arms, run_config

    plan = load_plan(ROOT / f'docs/studies/{name}/plan.py', trial=True)
    assert len(check_arms(plan)) == len(plan.arms) * len(plan.seeds)
    links = {}
    for arm in plan.arms:
        cfg = run_config(plan, arm, plan.seeds[0])
        assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ('AmpOptimWrapper', 'bfloat16')
        DefaultScope.get_instance(f'{name}-{arm}', scope_name=cfg.default_scope)
        for member in cfg.model.members.values():
            if name == 'gpu_kvasir' and not isinstance(member.config, str):
                member.config.backbone.pretrained = False
        model = MODELS.build(cfg.model)
        links[arm] = len(model.links)
        assert set(plan.members) <= set(model.specs)
    assert links.pop(plan.control) == 0 and max(links.values()) > 0
    if name == 'gpu_noise':
        other = load_plan(ROOT / 'docs/studies/tiny20_noise/plan.py', trial=True)
        assert not set(plan.seeds) & set(other.seeds)
    if name == 'gpu_kvasir':
        kinds = [type(model.network(f'student{i}').backbone).__name__ for i in (1, 2)]
        assert kinds == ['EfficientNetLite', 'MixVisionTransformer']
