"""tools/study.py as a user runs it: real trainings, killed in the middle and gone on with."""

import gc
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import conftest
import pytest
from mmengine.config import Config
from small_study import git

from mmkd.utils.locks import is_locked

pytestmark = [
    pytest.mark.usefixtures('unformatted_configs'),
    pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs /proc'),
]
TOOL = str(conftest.ROOT / 'tools/study.py')
PLAN = """
title = 'Peers on synthetic frames'
config = 'config.py'
changes = {'model.members.teacher': None}
arms = dict(
    alone={'model.sharing.type': 'individual'},
    peers={'model.sharing.type': 'ml_p'},
)
control = 'alone'
primary = dict(metric='mDice', members=['student1', 'student2'])
seeds = [3]
budget = dict(text='none')
hypotheses = 'None: the tool is tested.'
"""


def study(*arguments):
    """Run the tool in this process: the libraries are imported already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [TOOL, *map(str, arguments)])
        runpy.run_path(TOOL, run_name='__main__')


def write_config(data, path):
    """Narrow U-Nets on 32 px frames, one epoch of three steps, then one more."""
    cfg = Config.fromfile(conftest.ROOT / 'configs/mmkd/polyp_unet_mixed_demo.py')
    cfg.model.data_preprocessor.size = (32, 32)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size, loader.num_workers = 4, 0
        loader.dataset.data_root = f'{data}/'
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (32, 32)
    cfg.test_dataloader = cfg.val_dataloader
    for name, member in cfg.model.members.items():
        width = 8 if name == 'teacher' else 4
        for key in ('backbone.base_channels', 'decode_head.in_channels', 'decode_head.channels'):
            member.options[key] = width
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.dump(path)


def running(folder):
    """The processes whose command line names the folder."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().split(b'\0')
        except OSError:
            continue  # it ended in between
        if any(word.startswith(os.fsencode(str(folder))) for word in words):
            found.append(path.parent.name)
    return found


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_killed_study_leaves_no_training_and_goes_on(data, tmp_path):
    folder = tmp_path / 'docs/studies/peers'
    folder.mkdir(parents=True)
    (folder / 'plan.py').write_text(PLAN)
    write_config(data, tmp_path / 'config.py')
    git(tmp_path, 'init', '-q')
    git(tmp_path, 'add', 'docs', 'config.py')
    git(tmp_path, 'commit', '-q', '-m', 'plan')
    command = ['run', folder / 'plan.py', '--jobs', '2']
    pid = os.fork()
    if pid == 0:
        # What earlier tests left is not collected in the child: where that raises while a config is
        # parsed, Python 3.11.7's parser fails ("AST constructor recursion depth mismatch").
        gc.freeze()
        try:
            study(*command)
        finally:
            os._exit(1)
    runs = tmp_path / 'work_dirs/studies/peers'
    logs = [runs / f'{arm}_seed3/train.log' for arm in ('alone', 'peers')]
    wait(lambda: any(p.is_file() and 'Epoch(train)' in p.read_text() for p in logs))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    # A process that ends has no command line before it lets go of its lock.
    wait(lambda: not running(runs) and not any(map(is_locked, runs.glob('*/lock'))))
    assert not (folder / 'results').exists()
    study(*command)
    assert 'resumed epoch' in ''.join(path.read_text() for path in logs)
    assert sorted(path.name for path in (folder / 'results').iterdir()) == [
        'alone_seed3.json',
        'peers_seed3.json',
    ]
    for arm in ('alone', 'peers'):
        seeds = Config.fromfile(runs / f'{arm}_seed3/config.py').model.members
        assert seeds.student1.seed != seeds.student2.seed and seeds.teacher is None
    study('report', folder / 'plan.py')
    text = (folder / 'report.md').read_text()
    assert '| alone (control) | 1 of 1 |' in text and '| 6 | student1 ' in text
    assert '**Note:**' not in text and (folder / 'report.html').is_file()


def test_an_uncommitted_plan_ends_with_one_message(tmp_path, capsys):
    (tmp_path / 'plan.py').write_text(PLAN)
    with pytest.raises(SystemExit) as stop:
        study('run', tmp_path / 'plan.py')
    assert stop.value.code == 1 and 'the plan is not committed' in capsys.readouterr().err


def test_options_are_for_trials(tmp_path, capsys):
    with pytest.raises(SystemExit):
        study('run', tmp_path / 'plan.py', '--cfg-options', 'a=1')
    assert '--cfg-options is for a --trial' in capsys.readouterr().err
