"""Running a study: what is trained, what is not trained again, and how it ends."""

import gc
import json
import os
import signal
import sys
import time

import pytest
from small_study import small_study

from mmkd.apis.study import run
from mmkd.apis.study.run import run_study
from mmkd.apis.study.status import status_table

FAIL = ("{'gain': 2.0}", "{'gain': 2.0, 'mode': 'fail'}")
HANG = ("{'gain': 2.0}", "{'gain': 2.0, 'mode': 'hang'}")


@pytest.fixture
def study(tmp_path, monkeypatch):
    return small_study(tmp_path, monkeypatch)


def silent(text):
    """No lines."""


def starts(study, name='small'):
    """How often each run was started."""
    folder = study.runs / name
    return {
        path.parent.name: len(path.read_text().splitlines()) for path in folder.glob('*/starts')
    }


def test_each_run_is_trained_once_with_one_thread_and_may_resume(study):
    plan, lines = study.write()(), []
    assert run_study(plan, jobs=2, say=lines.append) == []
    assert set(starts(study).values()) == {1} and len(starts(study)) == 9
    order = [line for line in lines if 'started' in line]
    assert [line.split(':')[0] for line in order[:4]] == [
        'alone, seed 0',
        'peers, seed 0',
        'other, seed 0',
        'alone, seed 1',
    ]
    line = (study.runs / 'small/alone_seed0/starts').read_text().split()
    assert line[1] == '1' and line[-1] == '--resume'
    result = study.result('peers', 1)
    assert result['metrics']['student1/polyp/dice'] == 52.8 and result['trial'] is False
    assert result['plan_hash'] == plan.hash and result['minutes'] == 1.5
    assert {'torch', 'python'} <= set(result['versions']) and result['parameters'] == {
        'student1': 7
    }
    lines.clear()
    run_study(plan, say=lines.append)
    assert len(lines) == 9 and all(line.endswith('done before') for line in lines)
    assert set(starts(study).values()) == {1}


def test_the_runs_config_asks_for_the_primary_metric(study):
    run_study(study.write()(), ['peers'], [0], say=silent)
    text = (study.runs / 'small/peers_seed0/config.py').read_text()
    cfg: dict = {}
    exec(text, cfg)
    (hook,) = cfg['custom_hooks']
    expected = ['student1/polyp/dice', 'student2/polyp/dice']
    assert hook == dict(type='mmkd.StudyResultHook', expected=expected)
    assert cfg['custom_imports']['imports'] == ['mmkd']


def test_a_part_of_a_study(study):
    plan = study.write()()
    run_study(plan, ['peers'], [2], say=silent)
    assert starts(study) == {'peers_seed2': 1}
    with pytest.raises(ValueError, match="--arms: unknown name 'peer'; did you mean 'peers'"):
        run_study(plan, ['peer'])
    with pytest.raises(ValueError, match="--seeds: unknown name '3'"):
        run_study(plan, seeds=[3])
    table = status_table(plan).splitlines()
    assert table[2].split() == ['peers', '-', '-', '1.5', 'min']
    assert table[-1].startswith('1 of 9 runs done')


def test_results_of_another_config_are_refused_kept_or_trained_again(study):
    run_study(study.write()(), seeds=[0], say=silent)
    config = study.root / 'config.py'
    config.write_text(config.read_text() + 'more = 1\n')
    plan = study.write()()
    with pytest.raises(ValueError, match=r'alone_seed0.json \(another config\)'):
        run_study(plan, seeds=[0], say=silent)
    before = study.result('alone', 0)
    run_study(plan, seeds=[0], stale='keep', say=silent)
    assert study.result('alone', 0) == before and set(starts(study).values()) == {1}
    assert 'other config' in status_table(plan)
    run_study(plan, seeds=[0], stale='rerun', say=silent)
    assert study.result('alone', 0)['config_hash'] != before['config_hash']
    old = [path.name for path in study.runs.glob('small/*_old_*')]
    assert len(old) == 3  # the finished trainings of the old config are not gone on with


def test_results_of_another_plan_are_refused_kept_or_trained_again(study):
    run_study(study.write()(), ['alone'], [0], say=silent)
    plan = study.write('seeds = [0, 1, 2]', 'seeds = [0, 1]')()
    with pytest.raises(ValueError, match=r'alone_seed0.json \(another plan\)'):
        run_study(plan, say=silent)
    run_study(plan, ['alone'], stale='keep', say=silent)
    assert starts(study) == {'alone_seed0': 1, 'alone_seed1': 1}
    assert study.result('alone', 0)['plan_hash'] != plan.hash
    run_study(plan, ['alone'], stale='rerun', say=silent)
    assert study.result('alone', 0)['plan_hash'] == plan.hash


def test_a_run_that_fails_does_not_end_the_study(study):
    lines = []
    failed = run_study(study.write(*FAIL)(), seeds=[0, 1], say=lines.append)
    assert len(failed) == 1 and failed[0].startswith('peers, seed 0, see ')
    assert 'peers, seed 0: exit status 1: error: no luck' in lines
    assert 'peers, seed 1: left out, for another seed of this arm failed' in lines
    done = {path.stem for path in (study.folder / 'results').iterdir()}
    assert done == {'alone_seed0', 'other_seed0', 'alone_seed1', 'other_seed1'}


def test_a_result_without_the_primary_metric_is_none(study):
    plan = study.write("{'gain': 2.0}", "{'mode': 'other'}")()
    (failed,) = run_study(plan, ['peers'], [0], say=silent)
    assert "unknown name 'student1/polyp/dice'; did you mean 'student1/polyp/mdice'" in failed
    assert not (study.folder / 'results').exists()


def test_an_old_result_does_not_hide_that_a_run_failed(study):
    plan = study.write()()
    run_study(plan, ['alone'], [0], say=silent)
    (study.folder / 'results/alone_seed0.json').unlink()
    (study.root / 'train.py').write_text("raise SystemExit('error: no luck')")
    (failed,) = run_study(plan, ['alone'], [0], say=silent)
    assert failed.startswith('alone, seed 0')


def test_the_error_told_is_that_of_the_last_attempt(study):
    plan = study.write()()
    lines = []
    for text in ("raise SystemExit('error: no luck')", 'import os; os.kill(os.getpid(), 9)'):
        (study.root / 'train.py').write_text(text)
        run_study(plan, ['alone'], [0], say=lines.append)
    assert 'alone, seed 0: exit status 1: error: no luck' in lines
    assert 'alone, seed 0: exit status -9' in lines


def test_a_damaged_state_of_a_run_is_told(study):
    plan = study.write()()
    folder = study.runs / 'small/alone_seed0'
    folder.mkdir(parents=True)
    (folder / 'run.json').write_text('{')
    with pytest.raises(ValueError, match=r'run.json: damaged .*; remove .*alone_seed0'):
        run_study(plan, ['alone'], [0], say=silent)


def test_a_result_names_all_commits_that_trained_it(study, monkeypatch):
    plan = study.write()()
    train = study.root / 'train.py'
    text = train.read_text()
    train.write_text("raise SystemExit('error: no luck')")
    for commit in ('first', 'second', 'second'):
        monkeypatch.setattr(run, 'source_commit', lambda commit=commit: commit)
        run_study(plan, ['alone'], [0], say=silent)
    train.write_text(text)
    run_study(plan, ['alone'], [0], say=silent)
    assert study.result('alone', 0)['commits'] == ['first', 'second']


def test_a_trial_may_change_the_config_and_leaves_docs_alone(study):
    plan = study.write(commit=False)(trial=True)
    run_study(plan, ['alone'], [0], options={'gain': 5.0}, say=silent)
    (path,) = (study.runs / 'small_trial/results').iterdir()
    result = json.loads(path.read_text())
    assert result['trial'] and result['metrics']['student1/polyp/dice'] == 56.5
    assert not (study.folder / 'results').exists()


def test_a_run_over_its_budget_is_stopped(study):
    plan = study.write('max_minutes=1', 'max_minutes=0.02')()
    plan.arms['alone']['mode'] = 'hang'
    lines = []
    (failed,) = run_study(plan, ['alone'], [0], say=lines.append)
    assert 'alone, seed 0: over budget.max_minutes, stopped' in lines
    assert (study.runs / 'small/alone_seed0/saved').exists()


def alive(pid):
    """Whether a process runs (and is not only waited for)."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] not in 'ZX'
    except FileNotFoundError:
        return False


def wait(condition):
    """Wait until it is so; fail after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def start_and_hang(study):
    """Start a study in a fork of this process; returns its pid and those of training and worker."""
    plan = study.write(*HANG)()
    pid = os.fork()
    if pid == 0:
        gc.freeze()  # as in tests/test_tools/test_study.py
        # A background job of a shell script, as these tests may be, starts with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run_study(plan, ['peers'], [0], say=silent)
        except SystemExit as stop:
            os._exit(stop.code)
        finally:
            os._exit(1)
    file = study.runs / 'small/peers_seed0/pids'
    wait(lambda: file.exists() and len(file.read_text().split()) == 2)
    return pid, [int(word) for word in file.read_text().split()]


linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs /proc')


@linux
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_trainings_after_a_checkpoint(study, number):
    pid, (training, worker) = start_and_hang(study)
    assert run_study(study.write(*HANG)(), ['peers'], [0], say=silent) == []  # left to the other
    assert 'running' in status_table(study.write(*HANG)())
    os.kill(pid, number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + number
    assert not alive(training) and not alive(worker)
    assert (study.runs / 'small/peers_seed0/saved').exists()
    assert 'stopped' in status_table(study.write(*HANG)())


@linux
def test_no_training_outlives_a_killed_study(study):
    pid, (training, worker) = start_and_hang(study)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait(lambda: not alive(training))
    assert (study.runs / 'small/peers_seed0/saved').exists()
    os.kill(worker, signal.SIGKILL)  # real ones are a DataLoader's and end with it


@linux
def test_a_training_that_does_not_stop_is_killed(study, monkeypatch):
    monkeypatch.setattr(run, 'GRACE', 0.5)
    train = study.root / 'train.py'
    train.write_text(train.read_text().replace('sys.exit(99)', 'pass; time.sleep(1000)'))
    pid, (training, worker) = start_and_hang(study)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert not alive(training) and not alive(worker)
