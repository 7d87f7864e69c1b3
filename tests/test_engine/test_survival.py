"""Preemption, kills, torn files and faults: real processes where a signal is meant."""
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.runner import Runner

pytestmark = pytest.mark.usefixtures('unformatted_configs')


def config(toolkit, data, work_dir, **changes):
    cfg = toolkit.small_config(data, work_dir, **changes)
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    return cfg


def start(toolkit, folder, *arguments):
    return subprocess.Popen([sys.executable, str(toolkit.ROOT / 'tools/train.py'), 'config.py', *arguments], cwd=folder,
                            stdout=open(folder / 'out.log', 'a'), stderr=subprocess.STDOUT,
                            env=dict(os.environ, OMP_NUM_THREADS='1'))


def wait_for(folder, text, process, seconds=200):
    end = time.time() + seconds
    while text not in (folder / 'out.log').read_text():
        assert process.poll() is None and time.time() < end, (folder / 'out.log').read_text()[-2000:]
        time.sleep(0.05)


def weights(path):
    return torch.load(path, weights_only=False, map_location='cpu')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_run_preempted_in_the_middle_of_an_epoch_ends_as_an_unbroken_one(toolkit, data, tmp_path, workers):
    changes = {'train_dataloader.num_workers': workers, 'train_dataloader.batch_size': 2}
    whole = config(toolkit, data, tmp_path / 'whole', **changes)
    Runner.from_cfg(whole).train()
    broken = config(toolkit, data, tmp_path / 'broken', **changes)
    broken.custom_hooks.append(dict(type='SignalHook', iteration=8))
    with pytest.raises(SystemExit) as stopped:
        Runner.from_cfg(broken).train()
    assert stopped.value.code == 99 and (tmp_path / 'broken/preempted_iter_9.pth').is_file()
    resumed = config(toolkit, data, tmp_path / 'broken', **changes)
    resumed.load_from, resumed.resume = str(tmp_path / 'broken/preempted_iter_9.pth'), True
    Runner.from_cfg(resumed).train()
    one, other = (weights(tmp_path / f'{name}/epoch_2.pth') for name in ('whole', 'broken'))
    assert all(torch.equal(value, other['state_dict'][key]) for key, value in one['state_dict'].items())
    for name in ('teacher', 'student1', 'student2'):
        for index, state in one['optimizer'][name]['state'].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(other['optimizer'][name]['state'][index][k]))
                       for k, v in state.items())


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


def test_train_tool_stops_on_a_signal_and_resumes(toolkit, data, tmp_path):
    cfg = config(toolkit, data, 'work')
    cfg.train_cfg.max_epochs = 200
    cfg.dump(tmp_path / 'config.py')
    process = start(toolkit, tmp_path)
    wait_for(tmp_path, 'Epoch(train)', process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 99
    saved, = (tmp_path / 'work').glob('preempted_iter_*.pth')
    assert (tmp_path / 'work/last_checkpoint').read_text() == str(tmp_path / 'work' / saved.name) or (
        (tmp_path / 'work/last_checkpoint').read_text() == f'work/{saved.name}')
    done = start(toolkit, tmp_path, '--resume', '--cfg-options', 'train_cfg.max_epochs=1')
    assert done.wait(200) == 0, (tmp_path / 'out.log').read_text()[-2000:]
    assert f'--resume: work/{saved.name}' in (tmp_path / 'out.log').read_text()


def test_killed_while_saving_the_last_whole_checkpoint_is_found(toolkit, data, tmp_path):
    """SIGKILL at random moments of a run that does nearly nothing but save: what is left always loads."""
    from mmkd.utils.checkpoint import latest_whole, load_file
    cfg = config(toolkit, data, 'work', **{'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.save_best': None})
    cfg.train_cfg.max_epochs = 500
    cfg.dump(tmp_path / 'config.py')
    for kill in range(3):
        process = start(toolkit, tmp_path, '--resume')
        known = len(list((tmp_path / 'work').glob('iter_*.pth'))) if kill else 0
        end = time.time() + 200
        while process.poll() is None and time.time() < end:
            newest = max((p.stat().st_mtime_ns for p in (tmp_path / 'work').glob('iter_*.pth')), default=0)
            if newest and (known == 0 or newest > started):
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
    (tmp_path / 'epoch_3.pth').write_bytes(content[:len(content) // 2])
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
    assert [p.name for p in tmp_path.iterdir()] == ['x.pth'] and (tmp_path / 'x.pth').read_bytes() == b'old'


def test_the_old_checkpoint_is_removed_after_the_new_one_is_whole(toolkit, data, tmp_path, monkeypatch):
    cfg = config(toolkit, data, tmp_path / 'work', **{'default_hooks.checkpoint.max_keep_ckpts': 1})
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


def test_a_checkpoint_of_another_batch_size_is_refused_in_the_middle_of_an_epoch(toolkit, data, tmp_path):
    broken = config(toolkit, data, tmp_path / 'broken', **{'train_dataloader.batch_size': 2})
    broken.custom_hooks.append(dict(type='SignalHook', iteration=4))
    with pytest.raises(SystemExit):
        Runner.from_cfg(broken).train()
    other = config(toolkit, data, tmp_path / 'other', **{'train_dataloader.batch_size': 6})
    other.load_from, other.resume = str(tmp_path / 'broken/preempted_iter_5.pth'), True
    with pytest.raises(ValueError, match='cannot resume: iteration 5 is none of epoch 1 with 2 iterations'):
        Runner.from_cfg(other).train()


def broken_link_model(toolkit):
    """The teacher's prediction is NaN for its links alone; its own loss is sound."""
    model = toolkit.make_distiller(sharing='kdml_p')
    tap = model.taps['teacher', 'prediction']
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
    assert log['student1/loss_kd[teacher:prediction]'] == 0 and log['student2/loss_kd[teacher:prediction]'] == 0
    expected = sound.parse_losses(sound.loss(**sound.data_preprocessor(batch, True)))[0]
    assert {name: value.item() for name, value in losses.items()} == {name: value.item() for name, value in expected.items()}


def test_too_many_skipped_steps_in_a_row_end_the_training(toolkit):
    model = toolkit.make_distiller(sharing='individual')
    wrapper = toolkit.optim_wrapper(model, max_skips=3)
    next(model.members['student1'].parameters()).register_hook(lambda gradient: gradient * float('nan'))
    batch = toolkit.make_batch()
    before = {key: value.clone() for key, value in model.members['student2'].state_dict().items()}
    for _ in range(2):
        model.train_step(batch, wrapper)
    with pytest.raises(FloatingPointError, match='student1: 3 steps in a row'):
        model.train_step(batch, wrapper)
    assert any(not torch.equal(value, before[key]) for key, value in model.members['student2'].state_dict().items())
