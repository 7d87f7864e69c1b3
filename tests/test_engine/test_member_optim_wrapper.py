import copy

import pytest
import torch

from mmkd.utils.errors import ConfigError


def step(model, wrapper, toolkit, seed=0):
    return model.train_step(toolkit.make_batch(seed=seed), wrapper)


def snapshot(model):
    return {name: copy.deepcopy(model.network(name).state_dict()) for name in model.specs}


def test_a_member_with_gradients_not_finite_skips_alone(toolkit, caplog):
    model = toolkit.make_distiller(sharing='individual')
    wrapper = toolkit.optim_wrapper(model)
    head = model.network('student1').bbox_head
    original = head.loss_by_feat

    def broken(*args, **kwargs):
        losses = original(*args, **kwargs)
        losses['loss_bbox'] = losses['loss_bbox'] * float('nan')
        return losses

    head.loss_by_feat = broken
    before = snapshot(model)
    messages = []
    import mmkd.engine.optimizers.member_optim_wrapper as module

    original_log, module.print_log = module.print_log, lambda text, **kwargs: messages.append(text)
    try:
        step(model, wrapper, toolkit)
    finally:
        module.print_log = original_log
    parameters = dict(model.network('student1').named_parameters())
    assert all(torch.equal(before['student1'][k], v) for k, v in parameters.items())
    for name in ('teacher', 'student2'):
        assert any(
            not torch.equal(before[name][k], v) for k, v in model.network(name).named_parameters()
        )
    assert (
        len(messages) == 1
        and 'student1: step skipped' in messages[0]
        and 'student1/loss_bbox' in messages[0]
    )
    head.loss_by_feat = original
    step(model, wrapper, toolkit)
    assert any(
        not torch.equal(before['student1'][k], v)
        for k, v in model.network('student1').named_parameters()
    )


def test_each_member_has_its_own_optimiser_rate_and_clip(toolkit):
    model = toolkit.make_distiller(sharing='kdml_f')
    wrapper = toolkit.optim_wrapper(
        model,
        clip_grad=dict(max_norm=35),
        members=dict(
            teacher=dict(optimizer=dict(lr=0.5)),
            student2=dict(optimizer=dict(type='AdamW', lr=0.2), clip_grad=None),
        ),
    )
    assert list(wrapper.keys()) == ['teacher', 'student1', 'student2']
    assert {k: v for k, v in wrapper.get_lr().items() if k.endswith('.lr')} == {
        'teacher.lr': [0.5],
        'student1.lr': [0.01],
        'student2.lr': [0.2],
    }
    assert (
        type(wrapper['student2'].optimizer).__name__ == 'AdamW'
        and wrapper['student2'].clip_grad_kwargs is None
    )
    own = {id(p) for p in model.network('student1').parameters()}
    trained = {
        id(p) for group in wrapper['student1'].optimizer.param_groups for p in group['params']
    }
    connectors = {
        id(p) for link in model.links if link.target == 'student1' for p in link.parameters()
    }
    assert connectors and trained == own | connectors


def test_connectors_learn_with_their_target(toolkit):
    model = toolkit.make_distiller(sharing='kd_f')
    wrapper = toolkit.optim_wrapper(model)
    before = copy.deepcopy(model.link_modules.state_dict())
    step(model, wrapper, toolkit)
    assert any(not torch.equal(before[k], v) for k, v in model.link_modules.named_parameters())


def test_accumulated_steps_update_every_second_call(toolkit):
    model = toolkit.make_distiller(sharing='individual')
    wrapper = toolkit.optim_wrapper(model, accumulative_counts=2)
    before = snapshot(model)['student1']
    step(model, wrapper, toolkit)
    assert all(torch.equal(before[k], v) for k, v in model.network('student1').named_parameters())
    step(model, wrapper, toolkit, seed=1)
    assert any(
        not torch.equal(before[k], v) for k, v in model.network('student1').named_parameters()
    )


def test_state_is_saved_by_member(toolkit):
    model = toolkit.make_distiller(sharing='individual')
    wrapper = toolkit.optim_wrapper(model)
    step(model, wrapper, toolkit)
    state = wrapper.state_dict()
    assert set(state) == {'teacher', 'student1', 'student2'}
    other = toolkit.optim_wrapper(model)
    other.load_state_dict(copy.deepcopy(state))
    assert torch.equal(
        other.state_dict()['student1']['state'][0]['momentum_buffer'],
        state['student1']['state'][0]['momentum_buffer'],
    )


def test_a_plain_optimiser_wrapper_is_refused(toolkit):
    from mmengine.optim import build_optim_wrapper

    model = toolkit.make_distiller(sharing='individual')
    with pytest.raises(ConfigError, match='mmkd.MemberOptimWrapperConstructor'):
        step(model, build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1))), toolkit)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(members=dict(studnt1=dict())),
            "optim_wrapper.members: unknown name 'studnt1'; did you mean 'student1'",
        ),
        (dict(type='AmpOptimWrapper'), "AMP needs dtype='bfloat16'"),
        (
            dict(members=dict(student1=dict(accumulative_counts=2))),
            'accumulative_counts must be the same',
        ),
    ],
)
def test_wrong_optimiser_configs(toolkit, cfg, message):
    if torch.cuda.is_available() and 'type' in cfg:
        pytest.skip('AMP without dtype is right on a GPU')
    model = toolkit.make_distiller(sharing='individual')
    with pytest.raises(ValueError, match=message):
        toolkit.optim_wrapper(model, **cfg)
