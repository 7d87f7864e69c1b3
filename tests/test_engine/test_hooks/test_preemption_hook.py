import os
import signal
import types

import pytest
from mmengine.runner import BaseLoop

from mmkd.engine.hooks import PreemptionHook


class Loop(BaseLoop):
    def __init__(self):
        pass

    def run(self):
        pass


@pytest.fixture
def runner(tmp_path):
    events = []
    runner = types.SimpleNamespace(
        work_dir=str(tmp_path),
        epoch=0,
        iter=0,
        events=events,
        _train_loop=Loop(),
        steps=True,
        optim_wrapper=types.SimpleNamespace(should_update=lambda: runner.steps),
        call_hook=events.append,
        save_checkpoint=lambda *args, **kwargs: events.append((args[1], kwargs['meta'])),
        logger=types.SimpleNamespace(warning=lambda text: None),
    )
    return runner


@pytest.fixture
def ranks(runner, monkeypatch):
    """Two ranks, of which the other has got the signal; a barrier is an event."""
    module = 'mmkd.engine.hooks.preemption_hook'
    monkeypatch.setattr(f'{module}.get_world_size', lambda: 2)
    monkeypatch.setattr(f'{module}.all_reduce', lambda flag, op: flag.fill_(1.0))
    monkeypatch.setattr(f'{module}.barrier', lambda: runner.events.append('barrier'))


def run(hook, runner, iterations):
    for runner.iter in range(iterations):
        hook.after_train_iter(runner, runner.iter)


def test_all_ranks_wait_until_the_checkpoint_is_written(runner, ranks):
    with pytest.raises(SystemExit) as left:
        run(PreemptionHook(interval=3), runner, 9)
    assert left.value.code == 99
    saved = ('preempted_iter_3.pth', dict(epoch=0, iter=3))
    assert runner.events == ['before_saving', saved, 'barrier']


def test_an_agreement_within_accumulated_gradients_holds_until_the_step(runner, ranks):
    """Every 4th iteration steps, every 5th agrees: not only every 20th saves."""
    hook = PreemptionHook(interval=5)
    with pytest.raises(SystemExit):
        for runner.iter in range(20):
            runner.steps = (runner.iter + 1) % 4 == 0
            hook.after_train_iter(runner, runner.iter)
    assert runner.iter + 1 == 8


def test_a_signal_while_a_hook_trains_before_the_first_iteration_is_obeyed(runner):
    hook = PreemptionHook(signals=['SIGUSR1'])
    before = signal.getsignal(signal.SIGUSR1)
    hook.before_run(runner)
    try:
        hook.after_pretrain_iter(runner, 1)
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(SystemExit):
            hook.after_pretrain_iter(runner, 2)
    finally:
        hook.after_run(runner)
    assert ('preempted_iter_0.pth', dict(epoch=0, iter=0)) in runner.events
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_test_run_ends_by_the_signal_as_ever(runner):
    runner._train_loop = dict(type='ResumableTrainLoop')  # the config: nothing is trained
    before = signal.getsignal(signal.SIGTERM)
    PreemptionHook().before_run(runner)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(signals=['SIGNONE']), "PreemptionHook.signals: no signal 'SIGNONE'"),
        (dict(interval=0), 'interval: expected an integer >= 1'),
        (dict(exit_code=0), r'exit_code: expected an integer in \[1, 255\]'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        PreemptionHook(**options)
