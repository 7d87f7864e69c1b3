"""A small study in a git repository of its own, and a training that takes no time."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

CONFIG = """
model = dict(
    members=dict(
        teacher=dict(seed=0, checkpoint='t.pth'), student1=dict(seed=1), student2=dict(seed=2)
    ),
)
data = dict(subset=dict(seed=0), order=[dict(seed=0)])
randomness = dict(seed=0)
gain, mode = 0.0, 'quick'
"""
PLAN = """
title = 'A small study'
config = 'config.py'
arms = dict(
    alone={'model.members.teacher': None},
    peers={'gain': 2.0},
    other=dict(gain=1.0),
)
control = 'alone'
controls = dict(alone='the same networks alone')
primary = dict(metric='polyp/dice', members=['student1', 'student2'])
metrics = ['polyp/iou']
seeds = [0, 1, 2]
seed_keys = ['data.subset.seed', 'data.order.0.seed']
comparisons = [dict(arm='peers', at_least=1.0, text='Peers help.')]
budget = dict(text='none', max_minutes=1)
hypotheses = 'Peers < 1 & more'
"""
# What tools/train.py is for a study: it reads the config, and leaves a result in the work folder.
TRAIN = """
import json, os, pathlib, runpy, signal, subprocess, sys, time
cfg = runpy.run_path(sys.argv[1])
folder = pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])
with open(folder / 'starts', 'a') as file:
    file.write(f'{os.getpid()} {os.environ["OMP_NUM_THREADS"]} {" ".join(sys.argv[4:])}\\n')
if cfg['mode'] == 'fail':
    sys.exit('error: no luck')
if cfg['mode'] == 'hang':
    def save(*_):
        (folder / 'saved').write_text('')
        sys.exit(99)
    signal.signal(signal.SIGTERM, save)
    worker = subprocess.Popen(['sleep', '1000'])
    (folder / 'pids').write_text(f'{os.getpid()} {worker.pid}')
    time.sleep(1000)
seed = cfg['randomness']['seed']
name = 'polyp/dice' if cfg['mode'] == 'quick' else 'polyp/mdice'
noise = [0.3, -0.1, 0.2][seed] * cfg['gain']
value = 50.0 + seed + cfg['gain'] + noise
metrics = {f'{member}/{name}': value for member in ('student1', 'student2', 'ensemble')}
metrics['student1/polyp/iou'] = 40.0
result = dict(metrics=metrics, iterations=10, minutes=1.5, parameters=dict(student1=7), frozen={})
(folder / 'result.json').write_text(json.dumps(result))
"""


def git(folder: Path, *arguments: str) -> None:
    """Run git with a name and an address."""
    identity = ['-c', 'user.name=A', '-c', 'user.email=a@b.c']
    subprocess.run(['git', '-C', str(folder), *identity, *arguments], check=True)


def small_study(tmp_path, monkeypatch):
    """The study's paths, and how to change, commit and load its plan."""
    from mmkd.apis.study import results, run
    from mmkd.apis.study.plan import load_plan

    folder = tmp_path / 'docs/studies/small'
    folder.mkdir(parents=True)
    (tmp_path / 'config.py').write_text(CONFIG)
    (tmp_path / 'train.py').write_text(TRAIN)
    monkeypatch.setattr(run, 'TRAIN', tmp_path / 'train.py')
    results._base_config.cache_clear()
    git(tmp_path, 'init', '-q')

    def write(old='', new='', commit=True):
        assert old in PLAN
        text = PLAN.replace(old, new) if old else PLAN
        (folder / 'plan.py').write_text(text)
        if commit:
            git(tmp_path, 'add', '-A', 'docs/studies/small/plan.py')
            git(tmp_path, 'commit', '-q', '--allow-empty', '-m', 'plan')
        results._base_config.cache_clear()
        return lambda trial=False: load_plan(folder / 'plan.py', trial)

    def result(arm, seed):
        return json.loads((folder / f'results/{arm}_seed{seed}.json').read_text())

    return SimpleNamespace(
        root=tmp_path,
        folder=folder,
        write=write,
        result=result,
        runs=tmp_path / 'work_dirs/studies',
    )
