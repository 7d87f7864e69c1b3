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


def test_a_skipped_step_keeps_what_its_links_have_measured(toolkit):
    """The step reads a list, checkpoints have a buffer: both stay alike."""
    weight = dict(type='GradientShare', interval=1)
    model = toolkit.make_distiller(sharing=dict(type='kd_f', feature_weight=weight))
    wrapper = toolkit.optim_wrapper(model)
    step(model, wrapper, toolkit)
    first = next(model.network('student1').parameters())
    handle = first.register_hook(lambda grad: grad * float('nan'))
    step(model, wrapper, toolkit, seed=1)
    handle.remove()
    assert wrapper.skipped == ['student1']
    for link in model.links:
        assert link.rule.measurements == 2
        assert link.rule.means.tolist() == link.rule._means


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


def broken_once(module):
    """Let a module's outputs be NaN in the next forward pass."""

    def poison(module, args, output):
        handle.remove()
        return tuple(level * float('nan') for level in output)

    handle = module.register_forward_hook(poison, prepend=True)


def test_a_member_whose_outputs_are_not_finite_skips_alone(toolkit, caplog):
    """SimOTA fails on them; one batch must not poison every later validation either."""
    model = toolkit.make_distiller(sharing='kdml_mixed_full')
    wrapper = toolkit.optim_wrapper(model)
    step(model, wrapper, toolkit)
    before = snapshot(model)
    broken_once(model.network('student1').backbone)
    log = step(model, wrapper, toolkit, seed=1)
    assert wrapper.skipped == ['student1']
    after = model.network('student1').state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before['student1'].items())
    assert all(v.isfinite() for k, v in log.items() if k.startswith(('teacher', 'student2')))
    assert log['student1/loss_obj'].isnan()
    for name in ('teacher', 'student2'):
        own = model.network(name).state_dict()
        assert not all(torch.equal(value, own[key]) for key, value in before[name].items())
    step(model, wrapper, toolkit, seed=2)
    assert not wrapper.skipped


def test_an_error_of_finite_outputs_is_raised(toolkit):
    model = toolkit.make_distiller(sharing='individual', members=toolkit.members(students=1))
    wrapper = toolkit.optim_wrapper(model)
    model.network('student1').bbox_head.loss_by_feat = lambda *args, **kwargs: 1 // 0
    with pytest.raises(ZeroDivisionError):
        step(model, wrapper, toolkit)


def test_accumulated_steps_go_back_to_the_first_of_them(toolkit):
    model = toolkit.make_distiller(sharing='individual', members=toolkit.members(students=1))
    wrapper = toolkit.optim_wrapper(model, accumulative_counts=2)
    before = snapshot(model)['student1']
    step(model, wrapper, toolkit)
    next(model.members['student1'].parameters()).register_hook(lambda grad: grad * float('nan'))
    step(model, wrapper, toolkit)
    after = model.network('student1').state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def scaled_wrappers(model, **options):
    """The members' wrappers with loss scalers that run on a CPU."""
    from mmengine.optim import AmpOptimWrapper, OptimWrapper

    from mmkd.engine.optimizers import MemberOptimWrapper

    class ScaledWrapper(AmpOptimWrapper):
        def __init__(self, optimizer, static):
            OptimWrapper.__init__(self, optimizer)
            self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=512.0)
            self._scale_update_param = 512.0 if static else None

        optim_context = OptimWrapper.optim_context

    static = options.pop('static', False)
    return MemberOptimWrapper(
        **options,
        **{
            name: ScaledWrapper(torch.optim.SGD(model.members[name].parameters(), lr=0.01), static)
            for name in model.members.online
        },
    )


def test_loss_scalers_leave_the_step_as_it_is(toolkit):
    """By powers of two, whose scaling is exact."""
    results = []
    for make in (
        scaled_wrappers,
        lambda m: toolkit.optim_wrapper(m, optimizer=dict(type='SGD', lr=0.01)),
    ):
        model = toolkit.make_distiller(sharing='kdml_p')
        step(model, make(model), toolkit)
        results.append(snapshot(model))
    for name, weights in results[0].items():
        for key, value in weights.items():
            torch.testing.assert_close(value, results[1][name][key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('static', [False, True])
def test_steps_that_a_loss_scaler_skips_are_counted(toolkit, static):
    model = toolkit.make_distiller(sharing='individual', members=toolkit.members(students=1))
    wrapper = scaled_wrappers(model, static=static, max_skips=2)
    next(model.members['student1'].parameters()).register_hook(lambda grad: grad * float('nan'))
    before = snapshot(model)
    step(model, wrapper, toolkit)
    assert wrapper.skipped == ['student1'] and wrapper.skips['student1'] == 1
    scales = {name: one.loss_scaler.get_scale() for name, one in wrapper.items()}
    assert scales == dict(teacher=512.0, student1=512.0 if static else 256.0)
    parameters = dict(model.network('student1').named_parameters())
    assert all(torch.equal(before['student1'][key], value) for key, value in parameters.items())
    with pytest.raises(FloatingPointError, match='student1: 2 steps in a row'):
        step(model, wrapper, toolkit)


def test_members_of_different_amp_types_are_refused(toolkit):
    model = toolkit.make_distiller(sharing='individual')
    amp = dict(type='AmpOptimWrapper', dtype='bfloat16')
    with pytest.raises(ValueError, match='type and dtype .* must be the same for all'):
        toolkit.optim_wrapper(model, members=dict(teacher=amp))


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(optimizer=dict(type='SGD', lr=float('nan'))), r'optim_wrapper.optimizer.lr'),
        (dict(optimizer=dict(type='SGD', lr=-0.1)), r'optim_wrapper.optimizer.lr: .* -0.1'),
        (dict(optimizer=dict(type='SGD', lr=float('inf'))), r'optim_wrapper.optimizer.lr'),
        (dict(clip_grad=dict(max_norm=-1)), r'optim_wrapper.clip_grad.max_norm: .* -1'),
        (dict(clip_grad=dict(max_norm=float('nan'))), r'optim_wrapper.clip_grad.max_norm'),
        (dict(clip_grad=dict(max_norm=0)), 'clip_grad.max_norm: 0 would leave no gradient'),
        (dict(clip_grad=35), "clip_grad: expected a dict with 'max_norm', got 35"),
        (
            dict(members=dict(student2=dict(optimizer=dict(lr=-1)))),
            'optim_wrapper.members.student2.optimizer.lr',
        ),
        (dict(paramwise_cfg=dict(norm_decay=0)), "norm_decay.*did you mean 'norm_decay_mult'"),
        (
            dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mul_mult=0.1)})),
            r"custom_keys\['backbone'\]: unknown name 'lr_mul_mult'; did you mean 'lr_mult'",
        ),
        (
            dict(paramwise_cfg=dict(custom_keys={'backbon.stem': dict(lr_mult=0.1)})),
            r"custom_keys\['backbon.stem'\]: part of no parameter .* did you mean 'backbone'",
        ),
        (
            dict(paramwise_cfg=dict(custom_keys={'neck': dict(lr_mult=-1)})),
            r"custom_keys\['neck'\].lr_mult: expected a number >= 0, got -1",
        ),
        (dict(max_skips=0), 'optim_wrapper.max_skips: expected an integer >= 1'),
    ],
)
def test_rates_and_clips_that_cannot_be_meant_are_refused(toolkit, cfg, message):
    model = toolkit.make_distiller(init=False, sharing='individual')
    with pytest.raises(ValueError, match=message):
        toolkit.optim_wrapper(model, **cfg)


def test_a_member_may_have_layer_wise_rates(toolkit):
    """A toolbox's own constructor asks the network for its layers; connectors keep the rate."""
    from mmengine.optim import DefaultOptimWrapperConstructor
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

    @OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
    class HalvedBackboneConstructor(DefaultOptimWrapperConstructor):
        def add_params(self, params, module, **kwargs):
            assert type(module).__name__ == 'YOLOX'
            params.append(dict(params=list(module.backbone.parameters()), lr=self.base_lr / 2))
            for part in (module.neck, module.bbox_head):
                params.append(dict(params=list(part.parameters())))

    model = toolkit.make_distiller(init=False, sharing='kdml_f')
    wrapper = toolkit.optim_wrapper(
        model,
        members=dict(
            student1=dict(
                member_constructor='HalvedBackboneConstructor', paramwise_cfg=dict(decay_rate=0.5)
            )
        ),
    )
    groups = wrapper['student1'].optimizer.param_groups
    assert [group['lr'] for group in groups] == [0.005, 0.01, 0.01, 0.01]
    trained = {id(p) for group in groups for p in group['params']}
    assert trained == {id(p) for p in model.trained_module('student1').parameters()}
    with pytest.raises(ValueError, match=r"member_constructor: unknown name 'HalvedBackbone"):
        toolkit.optim_wrapper(model, member_constructor='HalvedBackboneConstruct')


def test_the_states_of_another_optimizer_are_refused(toolkit, caplog):
    model = toolkit.make_distiller(init=False, sharing='individual')
    state = toolkit.optim_wrapper(model).state_dict()
    other = toolkit.optim_wrapper(model, optimizer=dict(type='AdamW', lr=0.01))
    with pytest.raises(ValueError, match="cannot resume: optim_wrapper of 'teacher': .* AdamW"):
        other.load_state_dict(copy.deepcopy(state))
    state['nobody'] = state['teacher']
    with pytest.raises(ValueError, match="optimizer states of: unknown name 'nobody'"):
        toolkit.optim_wrapper(model).load_state_dict(copy.deepcopy(state))


def test_the_plain_config_has_the_members_own_constructor(tmp_path):
    from light_training import light_config

    from mmkd.export import plain_config

    cfg = light_config(tmp_path)
    own = dict(member_constructor='LearningRateDecayOptimWrapperConstructor')
    cfg.optim_wrapper.members = dict(student1=own)
    assert plain_config(cfg, 'student1').optim_wrapper.constructor == own['member_constructor']
    assert 'constructor' not in plain_config(cfg, 'student2').optim_wrapper
