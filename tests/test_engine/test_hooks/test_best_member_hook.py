import types
from pathlib import Path

import pytest
from mmengine.logging import MessageHub

from mmkd.engine.hooks import BestMemberHook
from mmkd.engine.hooks.safe_checkpoint_hook import told_on_failure
from mmkd.utils.errors import ConfigError, MachineError

NAN = float('nan')


@pytest.fixture
def runner(tmp_path):
    spec = types.SimpleNamespace(training='online')
    network = types.SimpleNamespace(state_dict=lambda: {})
    messages = []
    return types.SimpleNamespace(
        model=types.SimpleNamespace(specs=dict(a=spec, b=spec), network=lambda name: network),
        message_hub=MessageHub.get_instance('best'),
        epoch=0,
        iter=0,
        _train_loop=None,
        val_loop=None,
        cfg={},
        work_dir=str(tmp_path),
        val_dataloader=types.SimpleNamespace(dataset=types.SimpleNamespace(metainfo={})),
        logger=types.SimpleNamespace(info=messages.append),
        messages=messages,
    )


@pytest.fixture
def exported(monkeypatch):
    """The epoch (or iteration) and member of each export, in place of writing them."""
    found = []

    def export(cfg, state, name, path, metainfo, check_out=True):
        found.append(name)
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(b'')

    monkeypatch.setattr('mmkd.engine.hooks.best_member_hook.export_member', export)
    monkeypatch.setattr('mmkd.engine.hooks.best_member_hook.plain_config', lambda cfg, name: cfg)
    return found


def validate(runner, hook, **scores):
    runner.epoch += 1
    hook.after_val_epoch(runner, {f'{name}/top1': score for name, score in scores.items()})


def test_what_cannot_be_exported_is_told_before_the_training(toolkit, runner, data, tmp_path):
    runner.cfg = toolkit.small_config(data, tmp_path / 'work')
    runner.model.specs = dict.fromkeys(('student1', 'student2'), runner.model.specs['a'])
    runner.val_loop = types.SimpleNamespace(names=['student1', 'ensemble'])
    BestMemberHook('coco/bbox_mAP').before_train(runner)
    runner.cfg.val_dataloader.dataset.pipeline.append(dict(type='mmkd.FeatureMSE'))
    with pytest.raises(ConfigError, match="the plain config of 'student1' would still need mmkd"):
        BestMemberHook('coco/bbox_mAP').before_train(runner)


@pytest.mark.parametrize('rule, scores', [('greater', (0.9, NAN, 0.1)), ('less', (0.1, NAN, 0.9))])
def test_nan_is_never_the_best(runner, exported, rule, scores):
    hook = BestMemberHook('top1', rule)
    for score in (NAN, *scores):
        validate(runner, hook, a=score)
    best = runner.message_hub.get_info('best_members')
    assert best == dict(a=scores[0]) and exported == ['a']
    assert runner.message_hub.get_info('best_members_epochs') == dict(a=2)


def test_a_nan_that_an_earlier_version_took_for_the_best_is_replaced(runner, exported):
    runner.message_hub.update_info('best_members', dict(a=NAN))
    validate(runner, BestMemberHook('top1'), a=0.1)
    assert runner.message_hub.get_info('best_members') == dict(a=0.1)


def test_members_that_are_not_evaluated_are_left_out(runner, exported):
    validate(runner, BestMemberHook('top1'), b=0.5, ensemble=0.6)
    assert runner.message_hub.get_info('best_members') == dict(b=0.5, ensemble=0.6)
    assert exported == ['b']


def test_a_metric_that_the_evaluation_does_not_give_is_named(runner, exported):
    with pytest.raises(ValueError, match="BestMemberHook.metric: .*'a/top5'.* mean 'a/top1'"):
        validate(runner, BestMemberHook('top5'), a=0.5)


def test_iteration_based_training_counts_iterations(runner, exported):
    from mmengine.runner import IterBasedTrainLoop

    runner._train_loop, runner.iter = object.__new__(IterBasedTrainLoop), 400
    hook = BestMemberHook('top1')
    hook.before_train(runner)
    validate(runner, hook, a=0.5)
    hook.after_train(runner)
    rows = [line.split() for line in runner.messages[-1].split('\n')[1:]]
    assert rows[0] == ['member', 'best', 'top1', 'iteration', 'plain', 'checkpoint']
    assert rows[1][:3] == ['a', '0.5000', '400']


def test_a_wrong_rule_is_refused():
    with pytest.raises(ValueError, match='BestMemberHook.rule'):
        BestMemberHook('top1', 'bigger')


def test_what_a_kill_has_left_of_exports_is_removed(runner, exported, tmp_path):
    folder = tmp_path / 'best_members'
    folder.mkdir()
    for name in ('a.pth', 'a.py', '.a.pth.x1.pth', '.a.py.x2.py'):
        (folder / name).touch()
    BestMemberHook('top1').before_train(runner)
    assert {path.name for path in folder.iterdir()} == {'a.pth', 'a.py'}


def test_a_full_disk_is_told_with_what_is_left(runner, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmkd.engine.hooks.best_member_hook.export_member', full)
    message = '^.{0,11}a checkpoint could not be saved in .*: No space left .* no earlier one$'
    with pytest.raises(MachineError, match=message), told_on_failure(runner):  # told once
        validate(runner, BestMemberHook('top1'), a=0.5)
