"""Preemption, kills, torn files and faults: real processes where a signal is meant."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from light_training import ROOT, environment, light_config, loader
from mmengine.runner import Runner

pytestmark = pytest.mark.usefixtures('unformatted_configs')


def start(folder, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'tools/train.py'), 'config.py', *arguments],
        cwd=folder,
        stdout=open(folder / 'out.log', 'a'),
        stderr=subprocess.STDOUT,
        env=environment(),
        **options,
    )


def wait_for(folder, text, process, seconds=200):
    end = time.time() + seconds
    while text not in (folder / 'out.log').read_text():
        assert process.poll() is None and time.time() < end, (folder / 'out.log').read_text()[
            -2000:
        ]
        time.sleep(0.05)


def weights(path):
    return torch.load(path, weights_only=False, map_location='cpu')


@pytest.mark.parametrize('workers, unlabeled', [(0, False), (1, False), (0, True)])
def test_a_run_preempted_in_the_middle_of_an_epoch_ends_as_an_unbroken_one(
    tmp_path, workers, unlabeled
):
    changes = {'train_dataloader.num_workers': workers, 'train_dataloader.batch_size': 2}
    if unlabeled:
        changes.update({'model.sharing.type': 'peers_ema', 'model.sharing.schedule': None})
        dataset = dict(type='NoisyDataset', size=10)  # of another length than the labeled ones
        changes['unlabeled_dataloader'] = dict(loader(shuffle=True), batch_size=3, dataset=dataset)
    whole = light_config(tmp_path / 'whole', **changes)
    Runner.from_cfg(whole).train()
    broken = light_config(tmp_path / 'broken', **changes)
    broken.custom_hooks.append(dict(type='SignalHook', iteration=8))
    with pytest.raises(SystemExit) as stopped:
        Runner.from_cfg(broken).train()
    assert stopped.value.code == 99 and (tmp_path / 'broken/preempted_iter_9.pth').is_file()
    resumed = light_config(tmp_path / 'broken', **changes)
    resumed.load_from, resumed.resume = str(tmp_path / 'broken/preempted_iter_9.pth'), True
    Runner.from_cfg(resumed).train()
    one, other = (weights(tmp_path / f'{name}/epoch_2.pth') for name in ('whole', 'broken'))
    assert all(
        torch.equal(value, other['state_dict'][key]) for key, value in one['state_dict'].items()
    )
    for name in ('teacher', 'student1', 'student2'):
        for index, state in one['optimizer'][name]['state'].items():
            assert all(
                torch.equal(
                    torch.as_tensor(v), torch.as_tensor(other['optimizer'][name]['state'][index][k])
                )
                for k, v in state.items()
            )


@pytest.fixture(autouse=True, scope='module')
def signal_hook():
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    @HOOKS.register_module(force=True)
    class SignalHook(Hook):
        """Sends this process SIGTERM in an iteration, as Slurm would."""

        def __init__(self, iteration):
            self.iteration = iteration

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == self.iteration:
                os.kill(os.getpid(), signal.SIGTERM)


def test_train_tool_stops_on_a_signal_and_resumes(tmp_path):
    cfg = light_config('work')
    cfg.train_cfg.max_epochs = 200
    cfg.dump(tmp_path / 'config.py')
    process = start(tmp_path)
    wait_for(tmp_path, 'Epoch(train)', process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 99
    (saved,) = (tmp_path / 'work').glob('preempted_iter_*.pth')
    assert (tmp_path / 'work/last_checkpoint').read_text() == str(
        tmp_path / 'work' / saved.name
    ) or ((tmp_path / 'work/last_checkpoint').read_text() == f'work/{saved.name}')
    done = start(tmp_path, '--resume', '--cfg-options', 'train_cfg.max_epochs=1')
    assert done.wait(200) == 0, (tmp_path / 'out.log').read_text()[-2000:]
    assert f'--resume: work/{saved.name}' in (tmp_path / 'out.log').read_text()


def test_a_signal_to_all_processes_leaves_the_loaders_workers_to_the_training(tmp_path):
    """torchrun, `timeout` and systemd send SIGTERM to the workers, too."""
    cfg = light_config('work')
    cfg.train_cfg.update(max_epochs=200, val_interval=1)
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    cfg.val_dataloader.update(num_workers=1, persistent_workers=True)
    cfg.dump(tmp_path / 'config.py')
    process = start(tmp_path, start_new_session=True)
    wait_for(tmp_path, '[3][3/3]', process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 99, (tmp_path / 'out.log').read_text()[-2000:]
    assert len(list((tmp_path / 'work').glob('preempted_iter_*.pth'))) == 1
    with pytest.raises(ProcessLookupError):  # none is left
        os.killpg(process.pid, signal.SIGKILL)


def test_killed_while_saving_the_last_whole_checkpoint_is_found(tmp_path):
    """SIGKILL at random moments of a run that does little but save: what is left always loads."""
    from mmkd.utils.checkpoint import latest_whole, load_file

    cfg = light_config(
        'work',
        **{'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.save_best': None},
    )
    cfg.train_cfg.max_epochs = 500
    cfg.dump(tmp_path / 'config.py')
    started = 0
    for kill in range(3):
        process = start(tmp_path, '--resume')
        end = time.time() + 200
        while process.poll() is None and time.time() < end:
            newest = max(
                (p.stat().st_mtime_ns for p in (tmp_path / 'work').glob('iter_*.pth')), default=0
            )
            if newest > started:
                break
            time.sleep(0.02)
        time.sleep(0.13 * kill)
        process.kill()
        process.wait()
        started = time.time_ns()
        found = latest_whole(tmp_path / 'work')
        assert found is not None, (tmp_path / 'out.log').read_text()[-2000:]
        for path in (tmp_path / 'work').glob('iter_*.pth'):
            load_file(str(path), 'checkpoint')  # none is torn


def test_a_torn_checkpoint_is_passed_over_with_a_warning(tmp_path):
    from mmkd.utils.checkpoint import latest_whole

    for number in (1, 2, 3):
        torch.save(dict(state_dict=dict(weight=torch.ones(100))), tmp_path / f'epoch_{number}.pth')
        os.utime(tmp_path / f'epoch_{number}.pth', (number, number))
    content = (tmp_path / 'epoch_3.pth').read_bytes()
    (tmp_path / 'epoch_3.pth').write_bytes(content[: len(content) // 2])
    os.utime(tmp_path / 'epoch_3.pth', (9, 9))
    with pytest.warns(UserWarning, match='epoch_3.pth.*damaged'):
        assert latest_whole(tmp_path) == str(tmp_path / 'epoch_2.pth')
    assert latest_whole(tmp_path / 'nowhere') is None


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    from mmkd.utils.files import AtomicLocalBackend

    backend = AtomicLocalBackend()
    backend.put(b'old', tmp_path / 'x.pth')

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        backend.put(b'new', tmp_path / 'x.pth')
    assert [p.name for p in tmp_path.iterdir()] == ['x.pth'] and (
        tmp_path / 'x.pth'
    ).read_bytes() == b'old'


def test_the_old_checkpoint_is_removed_after_the_new_one_is_whole(tmp_path, monkeypatch):
    cfg = light_config(tmp_path / 'work', **{'default_hooks.checkpoint.max_keep_ckpts': 1})
    seen = []
    runner = Runner.from_cfg(cfg)
    original = runner.save_checkpoint

    def save(*args, **kwargs):
        seen.append(sorted(p.name for p in (tmp_path / 'work').glob('epoch_*.pth')))
        return original(*args, **kwargs)

    monkeypatch.setattr(runner, 'save_checkpoint', save)
    runner.train()
    assert ['epoch_1.pth'] in seen
    assert [p.name for p in (tmp_path / 'work').glob('epoch_*.pth')] == ['epoch_2.pth']


def test_a_checkpoint_of_another_batch_size_is_refused_in_the_middle_of_an_epoch(tmp_path):
    broken = light_config(tmp_path / 'broken', **{'train_dataloader.batch_size': 2})
    broken.custom_hooks.append(dict(type='SignalHook', iteration=4))
    with pytest.raises(SystemExit):
        Runner.from_cfg(broken).train()
    other = light_config(tmp_path / 'other', **{'train_dataloader.batch_size': 6})
    other.load_from, other.resume = str(tmp_path / 'broken/preempted_iter_5.pth'), True
    with pytest.raises(
        ValueError,
        match='cannot resume: train_dataloader has 2 batches per epoch, the checkpoint 6',
    ):
        Runner.from_cfg(other).train()


def broken_link_model(toolkit):
    """The teacher's prediction is NaN for its links alone; its own loss is sound."""
    model = toolkit.make_distiller(sharing='kdml_p')
    tap = model.members.taps['teacher', 'prediction']
    reader = tap.reader

    def damaged(module, output):
        value = reader(module, output)
        value.cls_logits = value.cls_logits * float('nan')
        return value

    tap.reader = damaged
    return model


def test_a_link_that_is_not_finite_is_left_out_and_named(toolkit, caplog):
    model, sound = broken_link_model(toolkit), toolkit.make_distiller(sharing='ml_p')
    batch = toolkit.make_batch()
    with caplog.at_level('WARNING'):
        losses, log = model.parse_losses(model.loss(**model.data_preprocessor(batch, True)))
    assert (
        log['student1/loss_kd[teacher:prediction]'] == 0
        and log['student2/loss_kd[teacher:prediction]'] == 0
    )
    expected = sound.parse_losses(sound.loss(**sound.data_preprocessor(batch, True)))[0]
    assert {name: value.item() for name, value in losses.items()} == {
        name: value.item() for name, value in expected.items()
    }


def test_too_many_skipped_steps_in_a_row_end_the_training(toolkit):
    model = toolkit.make_distiller(sharing='individual')
    wrapper = toolkit.optim_wrapper(model, max_skips=3)
    next(model.members['student1'].parameters()).register_hook(
        lambda gradient: gradient * float('nan')
    )
    batch = toolkit.make_batch()
    before = {key: value.clone() for key, value in model.members['student2'].state_dict().items()}
    for _ in range(2):
        model.train_step(batch, wrapper)
    with pytest.raises(FloatingPointError, match='student1: 3 steps in a row'):
        model.train_step(batch, wrapper)
    assert any(
        not torch.equal(value, before[key])
        for key, value in model.members['student2'].state_dict().items()
    )


@pytest.fixture
def size_limit():
    """Limit the size of files that this process may write: the system refuses, as a full disk."""
    import resource

    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, previous[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, previous)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize('best', [None, 'ensemble/accuracy/top1'])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_says_so(tmp_path, size_limit, best):
    from mmkd.utils.checkpoint import latest_whole, load_file

    work = tmp_path / 'work'
    cfg = light_config(
        work,
        **{
            'default_hooks.checkpoint.max_keep_ckpts': 1,
            'default_hooks.checkpoint.save_best': best,
        },
    )
    cfg.train_cfg.val_interval = 1
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'mmkd.BestMemberHook']
    runner = Runner.from_cfg(cfg)
    original = runner.train_loop.run_epoch

    def run_epoch():
        if runner.epoch == 1:
            size_limit(300_000)
        original()

    runner.train_loop.run_epoch = run_epoch
    with pytest.raises(
        OSError,
        match='a checkpoint could not be saved in .*: File too large; .*epoch_1.pth is whole',
    ):
        runner.train()
    size_limit(-1)
    kept = {'epoch_1.pth'} | ({'best_ensemble_accuracy_top1_epoch_1.pth'} if best else set())
    assert {p.name for p in work.iterdir() if '.pth' in p.name} == kept
    assert latest_whole(work) == str(work / 'epoch_1.pth') and (
        work / 'last_checkpoint'
    ).read_text() == str(work / 'epoch_1.pth')
    for name in kept:
        load_file(str(work / name), 'checkpoint')


def test_the_previous_best_is_removed_after_the_new_one_is_whole(tmp_path, monkeypatch):
    keys = ['student1/accuracy/top1', 'student2/accuracy/top1']
    for save_best in (keys, keys[0]):
        work = tmp_path / str(len(save_best))
        cfg = light_config(work, **{'default_hooks.checkpoint.save_best': save_best})
        runner = Runner.from_cfg(cfg)
        hook = next(h for h in runner.hooks if type(h).__name__ == 'SafeCheckpointHook')
        runner.load_or_resume()
        hook.before_train(runner)
        wanted = keys if save_best is keys else keys[:1]
        seen = []

        def save(*args, work=work, seen=seen, save=runner.save_checkpoint, **kwargs):
            seen.append(sorted(p.name for p in work.glob('best_*.pth')))
            save(*args, **kwargs)

        monkeypatch.setattr(runner, 'save_checkpoint', save)
        for epoch, score in ((1, 0.5), (2, 0.4), (3, 0.6)):
            runner.train_loop._epoch = epoch
            hook.after_val_epoch(runner, {key: score for key in keys})
        names = {f'best_{key.replace("/", "_")}_epoch_3.pth' for key in wanted}
        assert {p.name for p in work.glob('best_*.pth')} == names
        assert all(any('epoch_1' in name for name in files) for files in seen[1:]) and len(
            seen
        ) == 2 * len(wanted)


def test_old_preempted_checkpoints_and_leftovers_of_kills_go(tmp_path):
    work = tmp_path / 'work'
    broken = light_config(work, **{'train_dataloader.batch_size': 2})
    broken.custom_hooks.append(dict(type='SignalHook', iteration=1))
    with pytest.raises(SystemExit):
        Runner.from_cfg(broken).train()
    leftovers = ['.epoch_1.pth.abc.pth', '.last_checkpoint.mmkd_abc', '.a.json.mmkd_abc.json']
    leftovers += ['best_members/.student1.pth.mmkd_abc.pth', 'best_members/.student1.py.mmkd_a.py']
    (work / 'best_members').mkdir(exist_ok=True)
    for name in leftovers:
        (work / name).write_bytes(b'torn')
    again = light_config(work, **{'train_dataloader.batch_size': 2})
    again.custom_hooks.append(dict(type='SignalHook', iteration=3))
    again.load_from, again.resume, again.experiment_name = (
        str(work / 'preempted_iter_2.pth'),
        True,
        'again',
    )
    with pytest.raises(SystemExit):
        Runner.from_cfg(again).train()
    assert [p.name for p in work.glob('*preempted_iter_*')] == ['preempted_iter_4.pth'] and not [
        name for name in leftovers if (work / name).exists()
    ]
    last = light_config(work, **{'train_dataloader.batch_size': 2})
    last.load_from, last.resume, last.experiment_name = (
        str(work / 'preempted_iter_4.pth'),
        True,
        'last',
    )
    Runner.from_cfg(last).train()
    assert not list(work.glob('preempted_iter_*')) and (work / 'epoch_2.pth').is_file()


def test_a_validation_that_a_kill_cut_off_is_done_after_all(tmp_path):
    whole = light_config(tmp_path / 'whole')
    Runner.from_cfg(whole).train()
    cut = light_config(tmp_path / 'cut')
    cut.experiment_name = 'cut'
    runner = Runner.from_cfg(cut)
    runner.val_loop.run = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert not list((tmp_path / 'cut').glob('best_*'))
    resumed = light_config(tmp_path / 'cut')
    resumed.load_from, resumed.resume, resumed.experiment_name = (
        str(tmp_path / 'cut/epoch_2.pth'),
        True,
        'cut2',
    )
    Runner.from_cfg(resumed).train()
    names = {p.relative_to(tmp_path / 'whole') for p in (tmp_path / 'whole').rglob('*best*')}
    assert (
        names == {p.relative_to(tmp_path / 'cut') for p in (tmp_path / 'cut').rglob('*best*')}
        and len(names) >= 2
    )


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_nothing(tmp_path):
    """SIGKILL ten times in a training that saves every second iteration, `--resume` each time."""
    import random
    import re

    from mmkd.utils.checkpoint import latest_whole, load_file

    changes = {
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.checkpoint.save_best': None,
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
    }
    for name in ('whole', 'killed'):
        cfg = light_config('work', **changes)
        cfg.train_cfg.update(max_epochs=10, val_interval=10)
        (tmp_path / name).mkdir()
        cfg.dump(tmp_path / name / 'config.py')
    assert start(tmp_path / 'whole').wait(500) == 0, (tmp_path / 'whole/out.log').read_text()[
        -2000:
    ]
    folder, draw = tmp_path / 'killed', random.Random(7)
    kills = []
    while len(kills) < 10:
        logged = len((folder / 'out.log').read_text()) if kills else 0
        process = start(folder, '--resume')
        end = time.time() + 200
        wanted = draw.randint(1, 6)
        while (folder / 'out.log').read_text()[logged:].count('Epoch(train)') < wanted:
            assert process.poll() is None and time.time() < end, (folder / 'out.log').read_text()[
                -2000:
            ]
            time.sleep(0.02)
        if len(kills) % 2:  # in the middle of a write
            while not list((folder / 'work').glob('.*.pth')) and process.poll() is None:
                pass
        else:
            time.sleep(draw.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL, (
            'the training ended before the tenth kill: give it more epochs'
        )
        seen = re.findall(
            r'Epoch\(train\) +\[(\d+)\]\[ *(\d+)/6\]', (folder / 'out.log').read_text()[logged:]
        )[-1]
        reached = (int(seen[0]) - 1) * 6 + int(seen[1])
        found = latest_whole(folder / 'work')
        saved = load_file(found, 'checkpoint')['meta']['iter'] if found else 0
        torn = len(list((folder / 'work').glob('.*.pth')))
        kills.append((reached, saved, torn))
        print(
            f'kill {len(kills):2d}: after iteration {reached}, saved up to {saved}, '
            f'{torn} torn temporary file(s)'
        )
        assert (
            reached - saved <= 3
        )  # one interval, and an iteration that is not logged yet or is being saved
    assert start(folder, '--resume').wait(500) == 0, (folder / 'out.log').read_text()[-2000:]
    one, other = (weights(latest_whole(tmp_path / name / 'work')) for name in ('whole', 'killed'))
    assert one['meta']['iter'] == other['meta']['iter'] == 60
    unequal = [
        key
        for key, value in one['state_dict'].items()
        if not torch.equal(value, other['state_dict'][key])
    ]
    writing = sum(torn > 0 for *_, torn in kills)
    print(
        f'10 kills, {writing} while a file was written; weights that differ at the end: '
        f'{len(unequal)}'
    )
    assert not unequal, unequal[:5]
