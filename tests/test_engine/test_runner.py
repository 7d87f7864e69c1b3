"""A real Runner on a small synthetic set: evaluation, checkpoints, resuming, exports."""

import json

import pytest
import torch
from mmengine.runner import Runner

pytestmark = pytest.mark.usefixtures('unformatted_configs')


def weights(runner):
    return runner.model.state_dict()


def unmeasured(cfg):
    """The config without validation, where only the weights are looked at."""
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.save_best = None
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'mmkd.BestMemberHook']
    return cfg


def test_training_evaluates_logs_saves_and_exports(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path)
    cfg.custom_hooks.append(
        dict(type='EarlyStoppingHook', monitor='student1/coco/bbox_mAP', rule='greater', patience=5)
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = [
        json.loads(line)
        for line in (tmp_path / runner.timestamp / 'vis_data/scalars.json').read_text().splitlines()
    ]
    val = [s for s in scalars if 'loss' not in s][-1]
    for name in ('teacher', 'student1', 'student2', 'ensemble'):
        assert f'{name}/coco/bbox_mAP' in val and f'{name}/coco/bbox_mAP_50' in val
    train = next(s for s in scalars if 'loss' in s)
    for key in (
        'student1/loss_cls',
        'student1/loss_kd[teacher:prediction]',
        'student2/loss_ml[student1:prediction]',
        'student1.lr',
        'teacher/grad_norm',
    ):
        assert key in train, key
    assert list(tmp_path.glob('best_ensemble_coco_bbox_mAP_epoch_*.pth'))
    assert {p.name for p in (tmp_path / 'best_members').iterdir()} == {
        f'{name}.{kind}' for name in ('teacher', 'student1', 'student2') for kind in ('pth', 'py')
    }


def test_a_resumed_run_with_multi_scale_resizing_equals_an_unbroken_one(toolkit, data, tmp_path):
    """The size that is drawn every few iterations is in the checkpoint; see also test_resume.py."""
    changes = {
        'optim_wrapper.accumulative_counts': 3,
        'model.members.mean': dict(training='ema', of='student1', momentum=0.1),
        'model.data_preprocessor.batch_augments': [
            dict(
                type='BatchSyncRandomResize',
                random_size_range=(32, 96),
                size_divisor=32,
                interval=2,
            )
        ],
    }
    whole = Runner.from_cfg(unmeasured(toolkit.small_config(data, tmp_path / 'whole', **changes)))
    whole.train()
    half = unmeasured(toolkit.small_config(data, tmp_path / 'half', **changes))
    half.experiment_name = f'half_{len(changes)}'
    runner = Runner.from_cfg(half)
    runner.train_loop._max_epochs = (
        2  # schedules see the whole length, the run ends after one epoch
    )
    runner.train_loop.stop_training = False

    class Stop(Exception):
        pass

    def stop(*args, **kwargs):
        raise Stop

    original = runner.train_loop.run_epoch
    calls = []

    def run_epoch():
        if calls:
            stop()
        calls.append(1)
        original()

    runner.train_loop.run_epoch = run_epoch
    with pytest.raises(Stop):
        runner.train()
    torch.manual_seed(12345)  # another process starts with other states
    resumed_cfg = unmeasured(toolkit.small_config(data, tmp_path / 'half', **changes))
    resumed_cfg.resume, resumed_cfg.experiment_name = True, f'resumed_{len(changes)}'
    resumed = Runner.from_cfg(resumed_cfg)
    resumed.train()
    assert resumed.iter == whole.iter
    ends = weights(resumed)
    unequal = [k for k, v in weights(whole).items() if not torch.equal(v, ends[k])]
    assert not unequal, unequal[:5]


def test_ema_hook_weights_are_swapped_once_and_back(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path)
    cfg.train_cfg.max_epochs = 1
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    runner = Runner.from_cfg(cfg)
    runner.train()
    hook = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook')
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    key = 'members.student1.backbone.stem.conv.conv.weight'
    trained, average = weights(runner)[key], hook.ema_model.module.state_dict()[key]
    assert not torch.equal(trained, average)
    assert torch.equal(saved['state_dict'][key], average) and torch.equal(
        saved['ema_state_dict'][f'module.{key}'], trained
    )
    exported = torch.load(tmp_path / 'best_members' / 'student1.pth', weights_only=True)[
        'state_dict'
    ]
    assert torch.equal(exported['backbone.stem.conv.conv.weight'], average)  # what was measured


def test_zero_sharing_equals_a_plain_mmdet_run(toolkit, data, tmp_path):
    """The same config's member, trained alone on the same batches, ends at the same weights."""
    from mmkd.export import plain_config

    changes = {'randomness.seed': 1, 'model.sharing.type': 'individual'}
    cfg = toolkit.small_config(data, tmp_path / 'together', **changes)
    runner = Runner.from_cfg(unmeasured(cfg))
    runner.train()
    plain = plain_config(toolkit.small_config(data, tmp_path, **changes), 'student1')
    plain.work_dir, plain.launcher, plain.experiment_name = str(tmp_path / 'alone'), 'none', 'alone'
    plain.train_cfg.type = 'mmkd.ResumableTrainLoop'  # the same batches, augmentations included
    alone = Runner.from_cfg(unmeasured(plain))
    alone.train()
    together = weights(runner)
    for key, value in weights(alone).items():
        assert torch.equal(value, together[f'members.student1.{key}']), key
