"""DOT: a momentum of its own for the links' gradient, against a computation by two backwards."""

import copy

import distributed_worker
import pytest
import torch

from mmkd.utils.errors import ConfigError

DOT = dict(type='mmkd.DistillationOrientedSGD', lr=0.05, momentum=0.8, delta=0.1)


@pytest.fixture
def make(toolkit):
    """A distiller of three narrow classifiers, the same each time; its optimizers."""

    def make(sharing='kdml_f', **options):
        torch.manual_seed(0)
        model = toolkit.make_distiller(**distributed_worker.classification(sharing))
        return model, toolkit.optim_wrapper(model, **dict(dict(optimizer=DOT), **options))

    return make


def batch(seed):
    return distributed_worker.classification_batch(4, seed)


def train(model, wrapper, steps=3, parts=1):
    for seed in range(steps):
        for part in range(parts):
            model.train_step(distributed_worker.part(batch(seed), part, parts), wrapper)
    return model


def by_hand(model, steps, clip, decay):
    """Two gradients of each student from two backwards; momentum as the paper's eq. 7 and 8."""
    velocity = {}
    for seed in range(steps):
        data = model.data_preprocessor(batch(seed), True)
        terms = model(**data, mode='loss')
        for name in ('teacher', 'student1', 'student2'):
            own = [v.mean() for k, v in terms.items() if k.startswith(f'{name}/')]
            links = [v for k, v in terms.items() if k.startswith(f'{name}/') and '[' in k]
            parameters = list(model.trained_module(name).parameters())
            inside = {id(p) for p in model.members[name].parameters()}
            whole = torch.autograd.grad(sum(own), parameters, retain_graph=True)
            shared = [None] * len(parameters)
            if links:
                shared = torch.autograd.grad(
                    sum(links), parameters, retain_graph=True, allow_unused=True
                )
            norm = torch.cat([g.flatten() for g in whole]).norm()
            scale = min(1.0, clip / (norm.item() + 1e-6))
            updates = []
            for p, total, kd in zip(parameters, whole, shared):
                if kd is None or id(p) not in inside:  # behind the tap, or a connector
                    pairs = [('task', total, 0.8, decay)]
                else:
                    pairs = [('task', total - kd, 0.7, decay), ('kd', kd, 0.9, 0.0)]
                step = torch.zeros_like(p)
                for kind, gradient, momentum, wd in pairs:
                    old = velocity.get((id(p), kind), torch.zeros_like(p))
                    velocity[id(p), kind] = momentum * old + gradient * scale + wd * p.detach()
                    step += velocity[id(p), kind]
                updates.append((p, step))
            velocity[name] = updates
        with torch.no_grad():
            for name in ('teacher', 'student1', 'student2'):
                for p, step in velocity.pop(name):
                    p -= 0.05 * step
    return model


def assert_close(one, other, **limits):
    other = other.state_dict()
    for key, value in one.state_dict().items():
        torch.testing.assert_close(
            value, other[key], msg=lambda m, key=key: f'{key}: {m}', **limits
        )


def test_two_momenta_equal_a_computation_by_hand(make):
    optimizer = dict(DOT, weight_decay=0.01)
    model, wrapper = make(optimizer=optimizer, clip_grad=dict(max_norm=0.5))
    start = copy.deepcopy(model.state_dict())
    expected = by_hand(copy.deepcopy(model), 3, 0.5, 0.01)
    train(model, wrapper)
    assert_close(model, expected, rtol=1e-4, atol=1e-6)
    plain, sgd = make(optimizer=dict(type='SGD', lr=0.05, momentum=0.8))
    assert all(torch.equal(v, start[k]) for k, v in plain.state_dict().items())
    train(plain, sgd)
    name = 'members.student1.backbone.layer1.0.conv1.weight'
    moved = [m.state_dict()[name] - start[name] for m in (model, plain)]
    assert (moved[0] - moved[1]).norm() > 0.01 * moved[1].norm()  # it is something else than SGD


def test_without_links_it_is_plain_sgd(make):
    model = train(*make('individual'))
    plain = train(*make('individual', optimizer=dict(type='SGD', lr=0.05, momentum=0.8)))
    assert_close(model, plain, rtol=0, atol=0)


def test_accumulated_steps_and_loss_scales_leave_it_as_it_is(make, toolkit):
    clip = dict(clip_grad=dict(max_norm=0.5))
    for change in ('accumulated', 'scaled', 'bf16'):
        model, wrapper = make('kd_p', **clip)
        train(model, wrapper)
        if change == 'accumulated':
            other, own = make('kd_p', accumulative_counts=2, **clip)
            own.initialize_count_status(other, 0, 6)
            train(other, own, parts=2)
        elif change == 'bf16':
            other = train(*make('kd_p', type='AmpOptimWrapper', dtype='bfloat16', **clip))
        else:
            other, own = make('kd_p', **clip)
            for wrapper in own.values():
                scale(wrapper)
            train(other, own)
        loose = change == 'bf16'
        assert_close(other, model, rtol=0.3 if loose else 1e-4, atol=0.02 if loose else 1e-6)


def scale(wrapper):
    """Make a plain wrapper scale its loss as AmpOptimWrapper does."""
    from mmengine.optim import AmpOptimWrapper, OptimWrapper

    class ScaledWrapper(AmpOptimWrapper):
        optim_context = OptimWrapper.optim_context

    wrapper.__class__ = ScaledWrapper
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=512.0)
    wrapper._scale_update_param = None


def test_a_link_that_rests_leaves_plain_momentum(make):
    model, wrapper = make('kd_p')
    train(model, wrapper)
    optimizer = wrapper['student1'].optimizer
    first = optimizer.param_groups[0]['params'][0]
    assert 'distillation_buffer' in optimizer.state[first]
    for link in model.links:
        link.source_is_worse = True
    train(model, wrapper, steps=1)
    assert 'distillation_buffer' not in optimizer.state[first]
    assert getattr(first, 'distillation_grad', None) is None


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(optimizer=dict(DOT, delta=0.25)), 'delta: expected momentum - delta >= 0'),
        (dict(optimizer=dict(DOT, nesterov=True)), 'optimizer.nesterov: unknown name'),
        (dict(clip_grad=dict(type='value', clip_value=1)), "clip_grad.type: 'value' cannot clip"),
    ],
)
def test_wrong_options(make, cfg, message):
    with pytest.raises(ConfigError, match=message):
        make('kd_p', **cfg)


def test_an_exported_config_has_plain_sgd(tmp_path):
    from light_training import light_config

    from mmkd.export import plain_config

    cfg = light_config(tmp_path, **{'optim_wrapper.optimizer': dict(DOT)})
    assert plain_config(cfg, 'student1').optim_wrapper.optimizer == dict(
        type='SGD', lr=0.05, momentum=0.8
    )
