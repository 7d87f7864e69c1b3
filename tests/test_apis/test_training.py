"""What is a wrong input, what is a fault of a training, and what can be resumed."""

import os
import signal

import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS
from torch.utils.data import get_worker_info

from mmkd.apis.training import build_runner, check_resumed, check_start, find_checkpoint
from mmkd.apis.training import traceback_in_log as logged
from mmkd.utils.errors import ConfigError, MachineError

pytestmark = pytest.mark.usefixtures('unformatted_configs')


@HOOKS.register_module(force=True)
class FailsLate(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise KeyError('a fault in hour ten')


@HOOKS.register_module(force=True)
class RefusesLate(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise ConfigError('hook.metric: unknown')


@TRANSFORMS.register_module(force=True)
class EndsItsProcess(BaseTransform):
    """As the system does with a loader's process when the memory is full."""

    def transform(self, results):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return results


@pytest.fixture
def cfg(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path / 'work')
    cfg.model.pop('sharing')
    cfg.model.members = dict(student1=cfg.model.members.student1)
    cfg.model.ensemble = None
    cfg.custom_hooks = [dict(type='mmkd.MemberHook')]
    cfg.train_cfg.update(max_epochs=1, val_interval=5)
    return cfg


@pytest.mark.parametrize(
    'hook, error, text',
    [('FailsLate', KeyError, 'Traceback'), ('RefusesLate', ConfigError, 'error: hook')],
)
def test_a_fault_of_a_training_keeps_its_traceback_in_the_log(cfg, tmp_path, hook, error, text):
    cfg.custom_hooks.append(dict(type=hook))
    runner = build_runner(cfg)
    with pytest.raises(error) as raised, logged(runner):
        runner.train()
    assert type(raised.value) is error
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert text in log and ('Traceback' in log) == (error is KeyError)


def test_a_killed_worker_is_told_with_what_to_do(cfg, tmp_path):
    cfg.train_dataloader.num_workers = 1
    cfg.train_dataloader.dataset.dataset.pipeline.insert(0, dict(type='EndsItsProcess'))
    runner = build_runner(cfg)
    told = pytest.raises(MachineError, match='ended from outside .*pid.*lower num_workers')
    with told, logged(runner):
        runner.train()
    assert 'Traceback' not in next((tmp_path / 'work').glob('*/*.log')).read_text()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(param_scheduler=[dict(type='CosineLR')]), r'param_scheduler\[0\].type'),
        (dict(train_cfg=dict(type='mmkd.ResumableTrainLoop', max_epoch=1)), 'train_cfg'),
        ({'train_dataloader.dataset.dataset.pipeline.0.type': 'LoadImage'}, r'pipeline\[0\].type'),
        ({'optim_wrapper.optimizer.type': 'AdamWW'}, 'optim_wrapper.optimizer.type'),
    ],
)
def test_what_mmengine_builds_late_is_told_by_its_key(cfg, change, message):
    for key, value in change.items():
        cfg.merge_from_dict({key: value}) if '.' in key else cfg.__setattr__(key, value)
    runner = build_runner(cfg)
    with pytest.raises(ConfigError, match=message):
        runner.train()


# ------------------------------------------------------------------ resuming


def resumable(runner, epochs=1, iterations=3, **optimizer):
    """What a checkpoint of this runner would hold, as far as it is checked."""
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper = wrapper
    states = wrapper.state_dict()
    for state in states.values():
        for group in state['param_groups']:
            for key, value in optimizer.items():
                group.pop(key) if value is None else group.update({key: value})
    return dict(
        meta=dict(epoch=1, iter=3),
        state_dict=runner.model.state_dict(),
        optimizer=states,
        message_hub=dict(runtime_info=dict(max_epochs=epochs, max_iters=iterations)),
    )


def test_what_fits_is_resumed_whatever_the_number_of_epochs(cfg):
    runner = build_runner(cfg)
    check_resumed(runner, resumable(runner), 'x')
    check_resumed(runner, resumable(runner, epochs=4, iterations=12), 'x')


@pytest.mark.parametrize('iterations', [6, 2, 1])
def test_epochs_of_another_length_are_not_resumed(cfg, iterations):
    """Twice the batch size halves an epoch: what was one epoch would count as two."""
    runner = build_runner(cfg)
    with pytest.raises(
        ConfigError, match=f'x: its epochs have {iterations} iterations, .* 3: batch'
    ):
        check_resumed(runner, resumable(runner, iterations=iterations), 'x')


def test_the_states_of_another_optimizer_are_not_resumed(cfg):
    runner = build_runner(cfg)
    with pytest.raises(ConfigError, match="of 'student1' was another one: AdamW needs betas"):
        check_resumed(runner, resumable(runner, betas=None), 'x')


def test_another_learning_rate_is_named(cfg, tmp_path):
    runner = build_runner(cfg)
    check_resumed(runner, resumable(runner, initial_lr=0.5), 'x')
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert 'goes on with the learning rate of the checkpoint (0.5); that of the config' in log


@pytest.mark.parametrize('content', [[1], dict(state_dict={}), torch.zeros(1)])
def test_what_is_no_checkpoint_of_a_training(cfg, content):
    with pytest.raises(ConfigError, match='x is no checkpoint of a training'):
        check_resumed(build_runner(cfg), content, 'x')


# ------------------------------------------------------------------ which checkpoint


def save(path, iteration, time=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta=dict(iter=iteration), state_dict=dict(w=torch.ones(99))), path)
    if time is not None:
        os.utime(path, (time, time))


def test_the_most_iterations_count_and_not_the_newest_file(cfg, tmp_path):
    save(tmp_path / 'work/epoch_9.pth', 90, time=1)
    save(tmp_path / 'work/preempted_iter_95.pth', 95, time=2)
    save(tmp_path / 'work/epoch_10.pth', 100, time=3)
    save(tmp_path / 'work/epoch_2.pth', 20, time=9)
    path, checkpoint = find_checkpoint(cfg)
    assert path == str(tmp_path / 'work/epoch_10.pth') and checkpoint['meta']['iter'] == 100


def test_a_link_to_nowhere_blocks_nothing(cfg, tmp_path):
    save(tmp_path / 'work/epoch_1.pth', 10)
    (tmp_path / 'work/epoch_2.pth').symlink_to(tmp_path / 'removed.pth')
    assert find_checkpoint(cfg)[0] == str(tmp_path / 'work/epoch_1.pth')


def test_names_and_folders_of_the_config_are_searched(cfg, tmp_path):
    assert find_checkpoint(cfg) is None
    cfg.default_hooks.checkpoint.update(
        out_dir=str(tmp_path / 'elsewhere'), filename_tmpl='net-{:04d}.pt'
    )
    save(tmp_path / 'elsewhere/work/net-0003.pt', 30)
    assert find_checkpoint(cfg)[0] == str(tmp_path / 'elsewhere/work/net-0003.pt')


@pytest.mark.parametrize('name', ['epoch_1.pth', 'weights-1.pth', 'best_ensemble_mDice.pth'])
def test_checkpoints_of_which_none_can_be_used_are_an_error_and_no_new_start(cfg, tmp_path, name):
    path = tmp_path / 'work' / name
    save(path, 10)
    if name == 'epoch_1.pth':
        path.write_bytes(path.read_bytes()[:300])
        with pytest.warns(UserWarning, match='damaged'), pytest.raises(ConfigError, match=name):
            find_checkpoint(cfg)
    else:
        with pytest.raises(ConfigError, match=f'none can be resumed from .{name}'):
            find_checkpoint(cfg)


# ------------------------------------------------------------------ load_from


def test_a_start_that_would_load_nothing_is_an_error(cfg, tmp_path):
    plain, joint = tmp_path / 'plain.pth', tmp_path / 'joint.pth'
    torch.save(dict(state_dict={'backbone.w': torch.ones(1)}), plain)
    torch.save(dict(state_dict={'members.student1.backbone.w': torch.ones(1)}), joint)
    cfg.load_from = str(plain)
    with pytest.raises(ConfigError, match=r'load_from: .*no weights of the members .*\.checkpoint'):
        check_start(cfg)
    cfg.load_from = str(joint)
    assert list(check_start(cfg)['state_dict']) == ['members.student1.backbone.w']
    cfg.model = dict(type='YOLOX')
    cfg.load_from = str(plain)
    assert check_start(cfg) is None
