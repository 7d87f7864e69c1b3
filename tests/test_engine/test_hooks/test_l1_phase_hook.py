import types

import pytest

from mmkd.engine.hooks import L1PhaseHook
from mmkd.utils.errors import ConfigError


def test_every_trained_yolox_gets_the_l1_loss_in_the_last_phase(toolkit):
    model = toolkit.make_distiller(
        members=toolkit.members(average=dict(training='ema', of='student1'))
    )
    runner = types.SimpleNamespace(
        model=model, iter=0, max_iters=20, logger=types.SimpleNamespace(info=print)
    )
    hook = L1PhaseHook(begin=0.9)
    hook.before_train(runner)
    assert list(hook.heads) == ['teacher', 'student1', 'student2']
    phases = []
    for runner.iter in (0, 17, 18, 19):
        hook.before_train_iter(runner, runner.iter)
        data = model.data_preprocessor(toolkit.make_batch(), True)
        terms = model(**data, mode='loss')
        model.update_ema_members()
        phases.append(sorted(key for key in terms if 'l1' in key))
    every = ['student1/loss_l1', 'student2/loss_l1', 'teacher/loss_l1']
    assert phases == [[], [], every, every]


def test_what_it_cannot_do_is_refused(toolkit):
    model = toolkit.make_distiller(members=dict(a=dict(config=toolkit.RTMDET)), init=False)
    with pytest.raises(
        ConfigError, match="L1PhaseHook acts on no member: none of .'a'. is trained"
    ):
        L1PhaseHook().before_train(types.SimpleNamespace(model=model))
    with pytest.raises(ConfigError, match='L1PhaseHook..begin: expected a number'):
        L1PhaseHook(begin=1.5)
