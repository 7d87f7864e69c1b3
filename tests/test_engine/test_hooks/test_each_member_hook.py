import types

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmkd.engine.hooks.each_member_hook import EachMemberHook, adapt_hooks


@pytest.fixture
def runner(toolkit):
    """As much of a Runner as hooks ask for, at epoch 5 of 6."""
    dataset = types.SimpleNamespace(update_skip_type_keys=lambda keys: None)
    return types.SimpleNamespace(
        model=toolkit.make_distiller(init=False),
        hooks=[],
        epoch=5,
        max_epochs=6,
        train_dataloader=types.SimpleNamespace(dataset=dataset, persistent_workers=False),
        logger=types.SimpleNamespace(info=lambda text: None),
    )


def use_l1(runner):
    return [runner.model.network(name).bbox_head.use_l1 for name in runner.model.specs]


def test_the_l1_phase_of_yolox_begins_for_every_member(runner):
    from mmdet.engine.hooks import YOLOXModeSwitchHook

    other = Hook()
    runner.hooks = [other, YOLOXModeSwitchHook(num_last_epochs=2)]
    adapt_hooks(runner)
    assert runner.hooks[0] is other and isinstance(runner.hooks[1], EachMemberHook)
    assert use_l1(runner) == [False] * 3
    runner.hooks[1].before_train_epoch(runner)
    assert use_l1(runner) == [True] * 3


def test_only_members_that_have_what_a_hook_needs_are_acted_on(runner):
    from mmdet.engine.hooks import SetEpochInfoHook

    seen = []
    runner.model.network('student2').set_epoch = seen.append
    runner.hooks = [SetEpochInfoHook()]
    adapt_hooks(runner)
    runner.hooks[0].before_train_epoch(runner)
    assert seen == [5]


def test_a_hook_that_would_act_on_no_member_is_refused(runner):
    from mmdet.engine.hooks import SetEpochInfoHook

    runner.hooks = [SetEpochInfoHook()]
    with pytest.raises(ValueError, match="SetEpochInfoHook acts on no member: none .* 'set_epoch'"):
        adapt_hooks(runner)


def test_a_hook_for_another_kind_of_model_is_refused(runner):
    from mmdet.engine.hooks import MeanTeacherHook

    runner.hooks = [MeanTeacherHook()]
    with pytest.raises(ValueError, match="MeanTeacherHook .* use a member with training='ema'"):
        adapt_hooks(runner)


def test_a_users_hook_acts_on_the_members_named(runner):
    @HOOKS.register_module(force=True)
    class SwitchHook(Hook):
        def before_train_epoch(self, runner):
            self.calls = getattr(self, 'calls', 0) + 1
            runner.model.bbox_head.switched = (runner.epoch, self.calls)

    hook = EachMemberHook(dict(type='SwitchHook'), 'bbox_head', members=['student1', 'teacher'])
    hook.before_run(runner)
    hook.before_train_epoch(runner)
    heads = {name: runner.model.network(name).bbox_head for name in runner.model.specs}
    assert heads['student1'].switched == heads['teacher'].switched == (5, 1)
    assert not hasattr(heads['student2'], 'switched')
    with pytest.raises(ValueError, match="unknown name 'studnt1'; did you mean 'student1'"):
        EachMemberHook(dict(type='SwitchHook'), members=['studnt1']).before_run(runner)
    with pytest.raises(ValueError, match="model.members.teacher: SwitchHook needs 'head.margin'"):
        EachMemberHook(dict(type='SwitchHook'), 'head.margin', ['teacher']).before_run(runner)
