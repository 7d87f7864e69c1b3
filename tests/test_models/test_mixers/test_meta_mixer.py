"""MetaMixer with classifiers: draws, pairing, mixing and labels against computations by hand."""

import copy
import itertools

import mixing
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmpretrain')
from mmengine.registry import DefaultScope  # noqa: E402

from mmkd.models.mixers.meta_mix import mix_losses  # noqa: E402
from mmkd.models.mixers.meta_mixer import Draw  # noqa: E402
from mmkd.models.mixers.pairing import cut_box, global_partners, local_partners  # noqa: E402
from mmkd.utils.errors import ConfigError  # noqa: E402

COUNTER = itertools.count()
LABELS = [0, 1, 2, 0, 1, 1]


@pytest.fixture(autouse=True)
def mmpretrain_scope(fresh_state):
    DefaultScope.get_instance(f'mixer-{next(COUNTER)}', scope_name='mmpretrain')


def make(toolkit, mixer=None, members=None, **kwargs):
    members = members or dict(student1=mixing.cifar(1), student2=mixing.cifar(2))
    kwargs.setdefault('data_preprocessor', dict(mixing.CLS, _scope_='mmpretrain'))
    return toolkit.make_distiller(
        members=members,
        mixer=None if mixer is None else dict(dict(type='MetaMixer'), **mixer),
        **kwargs,
    )


def fix(model, local=False, local_lam=0.5, center=(0.5, 0.5), depth=None, lam=0.3, pairing=7):
    """Let the mixer draw these values in every step."""
    model.mixer.draw = lambda: Draw(local, local_lam, center, depth, lam, pairing)


def prepared(model, labels=LABELS, **kwargs):
    data = model.data_preprocessor(mixing.labelled(labels, **kwargs), True)
    return data['inputs'], data['data_samples']


def seen_inputs(model, inputs, samples):
    """What each member's backbone is given in one step."""
    seen, handles = {}, []
    for name in model.evaluated[:-1]:
        handles.append(
            model.network(name).backbone.register_forward_pre_hook(
                lambda m, args, name=name: seen.setdefault(name, args[0].clone())
            )
        )
    terms = model(inputs, samples, mode='loss')
    for handle in handles:
        handle.remove()
    return seen, terms


# ---------------------------------------------------------------- draws and pairing


def test_draws_follow_their_distributions(toolkit):
    mixer = make(
        toolkit, dict(depths=(0, 2, 3), alpha=0.5, local_alpha=2.0, global_prob=0.7, local_prob=0.2)
    ).mixer
    draws = [mixer.draw() for _ in range(4000)]
    depths = [d.depth for d in draws]
    assert set(depths) == {None, 0, 2, 3}
    assert depths.count(None) / 4000 == pytest.approx(0.3, abs=0.04)
    for depth in (0, 2, 3):
        assert depths.count(depth) / 4000 == pytest.approx(0.7 / 3, abs=0.04)
    assert sum(d.local for d in draws) / 4000 == pytest.approx(0.2, abs=0.03)
    for values, alpha in (([d.lam for d in draws], 0.5), ([d.local_lam for d in draws], 2.0)):
        values = torch.tensor(values)
        assert values.mean() == pytest.approx(0.5, abs=0.03)
        assert values.var() == pytest.approx(
            1 / (4 * (2 * alpha + 1)), rel=0.08
        )  # of Beta(alpha, alpha)
    centres = torch.tensor([d.center for d in draws])
    assert (
        centres.min() >= 0 and centres.max() < 1 and centres.std(0).sub(12**-0.5).abs().max() < 0.02
    )


def test_equal_seeds_draw_alike_and_nobody_elses_stream_moves(toolkit):
    torch.manual_seed(3)
    one = make(toolkit, dict()).mixer
    torch.manual_seed(3)
    two, other = make(toolkit, dict()).mixer, make(toolkit, dict(seed=99)).mixer
    before = torch.get_rng_state()
    drawn = [one.draw() for _ in range(5)]
    assert drawn == [two.draw() for _ in range(5)] and drawn != [other.draw() for _ in range(5)]
    assert torch.equal(before, torch.get_rng_state())
    fresh = make(toolkit, dict(seed=0)).mixer
    fresh.load_state_dict(one.state_dict())
    assert fresh.draw() == one.draw()


def test_probabilities_do_not_change_what_else_is_drawn(toolkit):
    some, none = (
        make(toolkit, dict(seed=5, global_prob=p, local_prob=p)).mixer for p in (1.0, 0.0)
    )
    for a, b in ((some.draw(), none.draw()) for _ in range(10)):
        assert (a.lam, a.local_lam, a.center, a.pairing) == (
            b.lam,
            b.local_lam,
            b.center,
            b.pairing,
        )
        assert a.local and a.depth is not None and not b.local and b.depth is None


@pytest.mark.parametrize('height, width', [(32, 32), (20, 50)])
def test_the_share_left_is_that_of_the_clipped_box(height, width):
    generator = torch.Generator().manual_seed(0)
    clipped = 0
    for lam, y, x in torch.rand(200, 3, generator=generator).tolist():
        (top, bottom, left, right), share = cut_box(height, width, lam, (y, x))
        image = torch.ones(height, width)
        image[top:bottom, left:right] = 0
        assert 0 <= top <= bottom <= height and 0 <= left <= right <= width
        assert share == pytest.approx(image.mean().item(), abs=1e-6)
        assert (
            share >= lam - 0.5 * (height + width) / (height * width) - 1e-6
        )  # but for rounding, never less than drawn
        clipped += share > lam + 0.1
    assert clipped > 20
    assert (
        cut_box(height, width, 1.0, (0.5, 0.5))[1] == 1
        and cut_box(height, width, 0.0, (0.5, 0.5))[1] == 0
    )


@pytest.mark.parametrize(
    'labels',
    [
        [0, 1],
        [0, 0, 1, 1],
        [0, 1, 2, 3, 0, 1, 2, 3],
        [0, 0, 0, 0, 1, 2],
        [0] * 4,
        [0],
        [0, 1, 1, 1, 2, 2, 0],
    ],
)
def test_global_partners_are_of_other_classes_where_possible(labels):
    classes, seen = [frozenset([label]) for label in labels], set()
    best = min(len(labels), 2 * (len(labels) - max(map(labels.count, labels))))
    for seed in range(30):
        partners = global_partners(classes, torch.Generator().manual_seed(seed)).tolist()
        assert sorted(partners) == list(range(len(labels)))
        assert sum(labels[i] != labels[j] for i, j in enumerate(partners)) == best
        assert len(labels) == 1 or all(i != j for i, j in enumerate(partners))
        seen.add(tuple(partners))
    assert len(seen) > 1 or len(labels) < 4


def test_local_partners_are_of_the_same_class():
    classes, seen = [frozenset([label]) for label in LABELS], set()
    for seed in range(20):
        partners = local_partners(classes, lambda a, b: a == b, torch.Generator().manual_seed(seed))
        assert partners[2] is None and partners[0] == 3 and partners[3] == 0
        assert all(partners[i] in {1, 4, 5} - {i} for i in (1, 4, 5))
        seen.add(tuple(partners))
    assert len(seen) > 1


# ---------------------------------------------------------------- mixing


def test_depth_0_mixes_the_input(toolkit):
    """The trap: k = 0 drawn, and the clean input used."""
    model = make(toolkit, dict(depths=(0,), global_prob=1.0, local_prob=0.0))
    fix(model, depth=0)
    inputs, samples = prepared(model)
    partners = global_partners(
        [frozenset([label]) for label in LABELS], torch.Generator().manual_seed(7)
    )
    seen, _ = seen_inputs(model, inputs, samples)
    for name in ('student1', 'student2'):
        torch.testing.assert_close(seen[name], 0.3 * inputs + 0.7 * inputs[partners])
        assert (seen[name] - inputs).abs().amax((1, 2, 3)).min() > 0.5


def test_drawn_depths_all_mix_and_unmixed_steps_do_not(toolkit):
    """By the mixer's own draws: in a step with depth 0 every input is mixed, in all others none."""
    model = make(toolkit, dict(depths=(0, 1, 4), local_prob=0.0, global_prob=0.8, seed=4))
    reference = copy.deepcopy(model.mixer)
    inputs, samples = prepared(model)
    depths = []
    for _ in range(12):
        draw = reference.draw()
        seen, _ = seen_inputs(model, inputs, samples)
        moved = (seen['student2'] - inputs).abs().amax((1, 2, 3))
        assert (moved > 0).all() if draw.depth == 0 else (moved == 0).all()
        depths.append(draw.depth)
    assert set(depths) == {None, 0, 1, 4}


def test_local_mixing_pastes_a_box_of_the_same_class_and_keeps_labels(toolkit):
    model = make(toolkit, dict(local_prob=1.0, global_prob=0.0))
    fix(model, local=True, local_lam=0.75, center=(0.25, 0.5))
    inputs, samples = prepared(model)
    before = inputs.clone()
    mix = model.mixer(inputs, samples)
    assert torch.equal(inputs, before) and mix.others is None and mix.depth is None
    box = torch.zeros(32, 32, dtype=torch.bool)
    box[0:16, 8:24] = True  # sides of a half, the centre at (8, 16)
    assert torch.equal(mix.inputs[2], inputs[2])  # the only one of its class
    for i in (0, 1, 3, 4, 5):
        assert torch.equal(mix.inputs[i][:, ~box], inputs[i][:, ~box])
        donors = [j for j in range(6) if torch.equal(mix.inputs[i][:, box], inputs[j][:, box])]
        assert len(donors) == 1 and donors[0] != i and LABELS[donors[0]] == LABELS[i]
    assert [s.gt_label.item() for s in mix.data_samples] == LABELS


def halves(network, depth, lam, partners, inputs):
    """Logits of a mixed forward pass, computed stage by stage."""
    backbone = network.backbone

    def blend(x):
        return lam * x + (1 - lam) * x[partners]

    if hasattr(backbone, 'layer1'):
        x = backbone.relu(backbone.norm1(backbone.conv1(blend(inputs) if depth == 0 else inputs)))
        for k in range(1, 5):
            x = getattr(backbone, f'layer{k}')(x)
            x = blend(x) if k == depth else x
        return network.head(network.neck((x,)))
    x, shape = backbone.patch_embed(blend(inputs) if depth == 0 else inputs)
    x = backbone.drop_after_pos(x)
    for k, stage in enumerate(backbone.stages, 1):
        for block in stage.blocks:
            x = block(x, shape)
        x = blend(x) if k == depth else x
        if stage.downsample is not None:
            x, shape = stage.downsample(x, shape)
    x = backbone.norm3(x).view(-1, *shape, x.shape[-1]).permute(0, 3, 1, 2)
    return network.head(network.neck((x,)))


@pytest.mark.parametrize('depth', range(5))
@pytest.mark.parametrize('network', ['cifar', 'swin'])
def test_mixing_equals_a_computation_by_hand(toolkit, network, depth):
    build = getattr(mixing, network)
    model = make(
        toolkit, dict(depths=(depth,)), members=dict(student1=build(1), student2=build(2))
    ).double()
    fix(model, depth=depth, lam=0.35)
    inputs, samples = prepared(model)
    inputs, labels = inputs.double(), torch.tensor(LABELS)
    alone = copy.deepcopy({name: model.network(name) for name in model.evaluated[:-1]})
    partners = global_partners(
        [frozenset([label]) for label in LABELS], torch.Generator().manual_seed(7)
    )
    terms = model(inputs, samples, mode='loss')
    sum(terms.values()).backward()
    for name, network in alone.items():
        logits = halves(network, depth, 0.35, partners, inputs)
        expected = 0.35 * F.cross_entropy(logits, labels) + 0.65 * F.cross_entropy(
            logits, labels[partners]
        )
        torch.testing.assert_close(terms[f'{name}/loss_task'], expected, rtol=1e-10, atol=1e-12)
        expected.backward()
        for one, other in zip(network.parameters(), model.network(name).parameters()):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-10)
        for one, other in zip(
            network.buffers(), model.network(name).buffers()
        ):  # one forward pass: one update of the norms
            torch.testing.assert_close(one, other)


def test_links_read_the_mixed_outputs_of_both_sides(toolkit):
    link = dict(source='student1', target='student2')
    with mixing.spy_loss() as seen:
        model = make(
            toolkit,
            dict(depths=(2,)),
            links=[dict(link, tap='backbone.layer2', loss=dict(type='SpyLoss')), link],
        )
        fix(model, depth=2, lam=0.4)
        inputs, samples = prepared(model)
        stages = {}
        for name in ('student1', 'student2'):
            model.network(name).backbone.layer2[-1].register_forward_hook(
                lambda m, a, out, name=name: stages.update({name: out})
            )
        seen.clear()
        terms = model(inputs, samples, mode='loss')
    partners = global_partners(
        [frozenset([label]) for label in LABELS], torch.Generator().manual_seed(7)
    )
    ((target, source, _),) = seen
    for value, name in ((target, 'student2'), (source, 'student1')):
        clean = stages[name]
        torch.testing.assert_close(value, 0.4 * clean + 0.6 * clean[partners])
    assert terms['student2/loss_kd[student1:prediction]'] > 0


def test_hooks_go_with_the_next_step_and_wraps_at_once(toolkit):
    model = make(toolkit, dict(depths=(1,)), sharing='ml_p')
    fix(model, depth=1)
    inputs, samples = prepared(model)
    model(inputs, samples, mode='loss')
    broken = [s.clone() for s in samples]
    for sample in broken:
        sample.set_gt_label(17)  # no such class: the loss fails
    with pytest.raises((IndexError, AssertionError)):
        model(inputs, broken, mode='loss')
    for name in ('student1', 'student2'):
        network = model.network(name)
        assert len(network.backbone.layer1._forward_hooks) <= 1
        assert '_get_loss' not in vars(network.head)
    fix(model)
    model(inputs, samples, mode='loss')
    for name in ('student1', 'student2'):
        assert not model.network(name).backbone.layer1._forward_hooks


def test_the_hook_left_for_the_backward_pass_mixes_nothing_else(toolkit):
    model = make(toolkit, dict(depths=(1,)))
    inputs, samples = prepared(model)
    networks = {name: model.network(name).eval() for name in ('student1', 'student2')}
    before = {name: network(inputs) for name, network in networks.items()}
    model.train()
    fix(model, depth=1)
    state = copy.deepcopy(model.state_dict())
    model(inputs, samples, mode='loss')
    model.load_state_dict(state)
    for name, network in networks.items():
        network.eval()
        assert torch.equal(network(inputs)[0], before[name][0])
        assert torch.equal(copy.deepcopy(network)(inputs)[0], before[name][0])


@pytest.mark.parametrize('reentrant', [False, True])
@pytest.mark.parametrize('place', ['backbone', 'backbone.layer2'])
def test_gradients_under_an_activation_checkpoint_are_those_without(toolkit, place, reentrant):
    """Around the stage that mixes, which runs again in the backward pass, or the stage itself."""
    from torch.utils.checkpoint import checkpoint

    model = make(toolkit, dict(depths=(2,)))
    plain = copy.deepcopy(model)
    module = model.network('student1').get_submodule(place)
    forward = module.forward
    module.forward = lambda *args: checkpoint(forward, *args, use_reentrant=reentrant)
    gradients = {}
    for kind, distiller in dict(plain=plain, checkpointed=model).items():
        fix(distiller, depth=2, lam=0.3)
        inputs, samples = prepared(distiller)
        inputs.requires_grad_()  # or a reentrant checkpoint gives no gradient
        terms = distiller(inputs, samples, mode='loss')
        sum(value for key, value in terms.items() if 'loss' in key).backward()
        gradients[kind] = {n: p.grad for n, p in distiller.network('student1').named_parameters()}
    for name, gradient in gradients['plain'].items():
        torch.testing.assert_close(gradients['checkpointed'][name], gradient, msg=name)


def test_a_checkpointed_stage_that_also_runs_on_other_images_is_refused(toolkit):
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

    model = make(toolkit, dict(depths=(2,)))
    turn_on_activation_checkpointing(model, ['members.student1.backbone'])
    fix(model, depth=2)
    inputs, samples = prepared(model)
    terms = model(inputs.requires_grad_(), samples, mode='loss')
    other = model.network('student1')(inputs)[0].sum()
    with pytest.raises(RuntimeError, match='inside an activation checkpoint and runs on other'):
        (sum(v for k, v in terms.items() if 'loss' in k) + other).backward()


def test_an_override_of_one_heads_loss_survives(toolkit):
    model = make(toolkit, dict(depths=(0,)))
    head = model.network('student1').head
    original, calls = head._get_loss, []

    def own(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    head._get_loss = own
    fix(model, depth=0)
    model(*prepared(model), mode='loss')
    assert vars(head)['_get_loss'] is own and len(calls) == 2


def test_the_batch_itself_is_not_changed(toolkit):
    for labels in ('index', 'soft'):
        model = make(toolkit, dict(depths=(0,), labels=labels), sharing='ml_p')
        fix(model, local=True, depth=0)
        inputs, samples = prepared(model)
        before, kept = inputs.clone(), [copy.deepcopy(sample) for sample in samples]
        model(inputs, samples, mode='loss')
        assert torch.equal(inputs, before)
        for old, new in zip(kept, samples):
            assert (
                old.keys() == new.keys()
                and torch.equal(old.gt_label, new.gt_label)
                and old.metainfo == new.metainfo
            )


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='CrossEntropyLoss'),
        dict(type='CrossEntropyLoss', use_soft=True),
        dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=3),
    ],
)
def test_soft_labels_give_what_both_losses_give(toolkit, loss):
    terms = []
    for labels in ('index', 'soft'):
        if labels == 'index' and loss.get('use_soft'):
            continue
        options = {'head.loss': dict(loss, _delete_=True)}
        model = make(
            toolkit,
            dict(depths=(2,), labels=labels),
            members=dict(a=mixing.cifar(1, options=options)),
        ).double()
        fix(model, local=True, depth=2, lam=0.2)
        inputs, samples = prepared(model)
        terms.append(model(inputs.double(), samples, mode='loss')['a/loss_task'])
    if loss.get('use_soft'):
        model = make(toolkit, dict(depths=(2,)), members=dict(a=mixing.cifar(1))).double()
        fix(model, local=True, depth=2, lam=0.2)
        terms.append(model(inputs.double(), samples, mode='loss')['a/loss_task'])
    torch.testing.assert_close(*terms, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('labels', ['index', 'soft'])
def test_several_labels_an_image(toolkit, labels):
    model = make(
        toolkit,
        dict(depths=(1,), labels=labels),
        members=dict(a=mixing.multi_label()),
        data_preprocessor=None,
    )
    model = model.double()
    given = [[0, 1], [2], [1, 0], [2, 3], [2]]
    fix(model, local=True, depth=1, lam=0.6)
    data = model.data_preprocessor(mixing.labelled(given, classes=4), True)
    inputs, samples = data['inputs'].double(), data['data_samples']
    mix = model.mixer(inputs, samples)
    changed = [not torch.equal(a, b) for a, b in zip(mix.inputs, inputs)]
    assert changed == [True, True, True, False, True]  # one of each set of labels: 0 and 2, 1 and 4
    clean = copy.deepcopy(model.network('a'))
    value = model(inputs, samples, mode='loss')['a/loss_task']
    truth = torch.stack(
        [torch.zeros(4).index_fill(0, torch.tensor(label), 1.0) for label in given]
    ).double()
    logits = halves(clean, 1, 0.6, mix.partners, mix.inputs)

    def bce(target):
        return F.binary_cross_entropy_with_logits(logits, target, reduction='none').sum() / 5

    expected = 0.6 * bce(truth) + 0.4 * bce(truth[mix.partners])
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_accuracies_are_the_first_ground_truths():
    def t(value):
        return torch.tensor(float(value))

    first, second = (
        dict(loss_a=t(1), loss_b=[t(2), t(4)], acc=t(90)),
        dict(loss_a=t(3), loss_b=[t(6), t(8)], acc=t(10)),
    )
    mixed = mix_losses(first, second, 0.25)
    assert mixed['loss_a'] == 2.5 and mixed['loss_b'] == [5, 7] and mixed['acc'] == 90


def test_accuracy_in_training_with_mixed_labels(toolkit):
    model = make(
        toolkit,
        dict(
            depths=(0,),
        ),
        members=dict(a=mixing.cifar(1, options={'head.cal_acc': True})),
    )
    fix(model, depth=0)
    terms = model(*prepared(model), mode='loss')
    assert 0 <= sum(terms['a/accuracy_top-1']) <= 100 and terms['a/loss_task'] > 0


# ---------------------------------------------------------------- the training step


def weights(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def train(toolkit, model, steps=3, **wrapper):
    wrapper = toolkit.optim_wrapper(model, **wrapper)
    return [model.train_step(mixing.labelled(LABELS, seed=seed), wrapper) for seed in range(steps)]


def test_a_mixer_that_never_mixes_changes_nothing(toolkit):
    models = [
        make(toolkit, mixer, sharing='ml_p')
        for mixer in (None, dict(global_prob=0.0, local_prob=0.0))
    ]
    for model in models:
        train(toolkit, model)
    assert not {
        key
        for key, value in weights(models[0]).items()
        if not torch.equal(value, weights(models[1])[key])
    }


def test_nothing_is_mixed_outside_training(toolkit):
    model = make(toolkit, dict(global_prob=1.0, local_prob=1.0), sharing='ml_p').eval()
    plain = make(toolkit, sharing='ml_p').eval()
    inputs, samples = prepared(model)
    for one, other in zip(
        model(inputs, samples, mode='predict'), plain(inputs, samples, mode='predict')
    ):
        assert torch.equal(one.pred_score, other.pred_score)
    terms, expected = (m(inputs, samples, mode='loss') for m in (model, plain))
    assert terms == expected and model.mixer.state_dict()['cpu'] is None  # nothing drawn
    model.train()
    assert (
        model(inputs, samples, mode='loss')['student1/loss_task']
        != plain.train()(inputs, samples, mode='loss')['student1/loss_task']
    )


@pytest.mark.parametrize(
    'sharing', ['individual', 'kd_f', 'kdml_p', 'kdml_mixed_complement', 'kdml_mixed_full']
)
@pytest.mark.parametrize('labels', ['index', 'soft'])
def test_it_goes_with_every_sharing_and_unlike_networks(toolkit, sharing, labels):
    members = dict(teacher=mixing.swin(3), student1=mixing.cifar(1), student2=mixing.cifar(2))
    model = make(
        toolkit,
        dict(global_prob=1.0, local_prob=0.5, labels=labels),
        members=members,
        sharing=sharing,
    )
    before = weights(model)
    for log in train(toolkit, model, steps=4):
        assert all(torch.isfinite(value) for value in log.values())
    after = weights(model)
    for name in members:
        assert any(
            not torch.equal(before[key], after[key])
            for key in after
            if key.startswith(f'members.{name}.')
        )


def test_frozen_and_ema_members_are_mixed_alike(toolkit, tmp_path):
    torch.save(make(toolkit).network('student1').state_dict(), tmp_path / 't.pth')
    teacher = mixing.cifar(1, training='frozen', checkpoint=str(tmp_path / 't.pth'))
    members = dict(
        teacher=teacher,
        student1=mixing.cifar(1),
        student2=mixing.cifar(2),
        mean=dict(training='ema', of='student1'),
    )
    model = make(
        toolkit,
        dict(depths=(3,)),
        members=members,
        links=[
            dict(
                source='teacher',
                target='student1',
                tap='backbone.layer4',
                loss=dict(type='FeatureMSE'),
                name='t',
            ),
            dict(source='mean', target='student2'),
        ],
    )
    fix(model, depth=3, lam=0.2)
    clean, mixed = {}, {}
    for name in model.evaluated[:-1]:
        backbone = model.network(name).backbone
        backbone.layer3[-1].register_forward_hook(
            lambda m, a, out, name=name: clean.update({name: out})
        )
        backbone.layer4.register_forward_pre_hook(
            lambda m, a, name=name: mixed.update({name: a[0]})
        )
    model(*prepared(model), mode='loss')
    partners = global_partners(
        [frozenset([label]) for label in LABELS], torch.Generator().manual_seed(7)
    )
    assert set(mixed) == set(members)
    for name, value in mixed.items():
        torch.testing.assert_close(value, 0.2 * clean[name] + 0.8 * clean[name][partners])


@pytest.mark.parametrize(
    'change', [dict(type='AmpOptimWrapper', dtype='bfloat16'), dict(accumulative_counts=2)]
)
def test_it_works_in_bfloat16_and_with_accumulated_gradients(toolkit, change):
    members = dict(student1=mixing.swin(1), student2=mixing.cifar(2))
    model = make(toolkit, dict(global_prob=1.0), members=members, sharing='ml_p')
    before = weights(model)
    for log in train(toolkit, model, steps=4, **change):
        assert all(torch.isfinite(value) for value in log.values())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(not torch.equal(value, before[key]) for key, value in weights(model).items())


@pytest.mark.parametrize('depth', [0, 2])
def test_members_with_their_own_normalisation(toolkit, depth):
    own = dict(
        type='ClsDataPreprocessor', mean=[90.0, 80.0, 70.0], std=[30.0, 40.0, 50.0], to_rgb=False
    )
    members = dict(a=mixing.cifar(1), b=mixing.cifar(1, options=dict(data_preprocessor=own)))
    model = make(toolkit, dict(depths=(depth,)), members=members)
    fix(model, local=True, depth=depth)
    inputs, samples = prepared(model)
    mix = model.mixer(inputs, samples)
    seen, _ = seen_inputs(model, inputs, samples)
    torch.testing.assert_close(seen['a'], mix.inputs)
    raw = mix.inputs * torch.tensor(mixing.CLS['std']).view(3, 1, 1) + torch.tensor(
        mixing.CLS['mean']
    ).view(3, 1, 1)
    expected = (raw.flip(1) - torch.tensor(own['mean']).view(3, 1, 1)) / torch.tensor(
        own['std']
    ).view(3, 1, 1)
    torch.testing.assert_close(seen['b'], expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(mix.inputs, inputs)


def test_copies_of_a_distiller_mix_for_themselves(toolkit):
    model = make(toolkit, dict(global_prob=1.0), sharing='ml_p')
    other = copy.deepcopy(model)
    data = prepared(model)
    one, two = model(*data, mode='loss'), other(*data, mode='loss')
    assert one == two
    assert not any('mixer' in key for key in model.state_dict())


# ---------------------------------------------------------------- wrong configs


@pytest.mark.parametrize(
    'mixer, message',
    [
        (
            dict(type='MetaMxier'),
            "model.mixer.type: unknown name 'MetaMxier'; did you mean 'MetaMixer'",
        ),
        (dict(alhpa=1), "model.mixer.alhpa: unknown name 'alhpa'; did you mean 'alpha'"),
        (dict(task=1), "model.mixer.task: unknown name 'task'"),
        (dict(alpha=0), 'model.mixer: alpha: expected a positive number, got 0'),
        (dict(local_alpha='1'), 'local_alpha: expected a positive number'),
        (dict(global_prob=1.5), r'global_prob: expected a number in \[0, 1\], got 1.5'),
        (dict(local_prob=-1), 'local_prob: expected a number'),
        (dict(depths=()), 'depths: expected one or more integers >= 0'),
        (dict(depths=(0, -1)), 'depths: expected one or more integers'),
        (dict(depths=2), 'depths: expected one or more integers'),
        (
            dict(depths=(0, 5)),
            "depths: 5 is out of range for 'student1', which has 4 stages: backbone.layer1, ",
        ),
        (dict(labels='sofd'), "labels: unknown name 'sofd'; did you mean 'soft'"),
        (
            dict(stages=dict(studnt1=[])),
            "stages.studnt1: unknown name 'studnt1'; did you mean 'student1'",
        ),
        (
            dict(stages=dict(student2=['backbone.layr1']), depths=(1,)),
            "stages.student2: .*did you mean 'backbone.layer1'",
        ),
    ],
)
def test_wrong_arguments_fail_at_build(toolkit, mixer, message):
    with pytest.raises(ValueError, match=message):
        toolkit.make_distiller(
            members=dict(student1=mixing.cifar(1), student2=mixing.cifar(2)),
            data_preprocessor=dict(mixing.CLS, _scope_='mmpretrain'),
            mixer=dict(dict(type='MetaMixer'), **mixer),
        )


def test_a_network_without_known_stages_can_be_told_them(toolkit):
    members = dict(a=mixing.cifar(1), b=mixing.vit(2))
    with pytest.raises(
        ValueError, match=r"stages: found none in the VisionTransformer of 'b'.*stages=dict\(b="
    ):
        make(toolkit, dict(depths=(0, 1)), members=members)
    stages = dict(b=['backbone.layers.0', 'backbone.layers.1'])
    model = make(toolkit, dict(depths=(2,), stages=stages), members=members)
    fix(model, depth=2)
    assert all(torch.isfinite(value) for value in model(*prepared(model), mode='loss').values())
    with pytest.raises(ValueError, match="depths: 3 is out of range for 'b', which has 2 stages"):
        make(toolkit, dict(depths=(3,), stages=stages), members=members)
    assert make(toolkit, dict(depths=(0,)), members=members).mixer.stages == {}


def test_a_stage_that_does_not_run_once_is_named(toolkit):
    model = make(toolkit, dict(depths=(1,), stages=dict(student1=['backbone.layer1.0.relu'])))
    fix(model, depth=1)
    with pytest.raises(RuntimeError, match="stages.student1: 'backbone.layer1.0.relu' ran 2 times"):
        model(*prepared(model), mode='loss')


@pytest.mark.parametrize('labels', ['index', 'soft'])
def test_a_frozen_teacher_needs_no_head(toolkit, tmp_path, labels):
    """It computes no loss."""
    state = make(toolkit).network('student1').state_dict()
    state = {key: value for key, value in state.items() if not key.startswith('head.')}
    torch.save(state, tmp_path / 't.pth')
    teacher = mixing.cifar(
        1, training='frozen', checkpoint=str(tmp_path / 't.pth'), options={'head': None}
    )
    link = dict(source='teacher', target='student1', tap='backbone.layer4', loss='FeatureMSE')
    members = dict(teacher=teacher, student1=mixing.cifar(1))
    model = make(toolkit, dict(labels=labels), members=members, links=[link])
    fix(model, depth=1)
    assert model(*prepared(model), mode='loss')['student1/loss_kd[teacher:backbone.layer4]'] > 0


def test_losses_that_cannot_be_mixed_are_refused(toolkit):
    seesaw = {'head.loss': dict(type='SeesawLoss', num_classes=3, _delete_=True)}
    with pytest.raises(
        ValueError, match="labels: the loss SeesawLoss of 'a' takes no mixed labels"
    ):
        make(toolkit, dict(labels='soft'), members=dict(a=mixing.cifar(1, options=seesaw)))
    make(toolkit, dict(labels='index'), members=dict(a=mixing.cifar(1, options=seesaw)))


def test_a_head_that_makes_its_loss_otherwise_is_refused_in_the_first_step(toolkit):
    """Also where that step mixes nothing, so that no one waits for the first that does."""
    arcface = {'head': dict(type='ArcFaceClsHead', num_classes=3, in_channels=32, _delete_=True)}
    members = dict(a=mixing.cifar(1, options=arcface))
    model = make(toolkit, dict(), members=members)
    fix(model)
    with pytest.raises(
        ValueError, match=r"the loss of 'a' cannot be mixed: 'head' \(ArcFaceClsHead\) does not"
    ):
        model(*prepared(model), mode='loss')
    model = make(toolkit, dict(global_prob=0.0), members=members)
    assert model(*prepared(model), mode='loss')
    model = make(toolkit, dict())
    fix(model)
    model(*prepared(model), mode='loss')
    assert not model.mixer.unchecked


def test_classes_in_common(toolkit):
    with pytest.raises(ValueError, match="partners: 'common' is for ground truth that is cut"):
        make(toolkit, dict(partners='common'))
    with pytest.raises(ValueError, match="partners: unknown name 'comon'; did you mean 'common'"):
        make(toolkit, dict(partners='comon'))


def test_few_partners_are_told_once(toolkit, caplog, monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmkd.models.mixers.meta_mixer.print_log', lambda message, **kwargs: said.append(message)
    )
    model = make(toolkit, dict(local_prob=1.0, global_prob=0.0, depths=(0,)))
    inputs, samples = prepared(model, labels=[0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    for _ in range(30):
        model.mixer(inputs, samples)
    (message,) = said
    assert 'found a partner of the same class for 20 of 100 images' in message
    said.clear()
    model = make(toolkit, dict(local_prob=1.0, global_prob=0.0, depths=(0,)))
    inputs, samples = prepared(model)
    for _ in range(30):
        model.mixer(inputs, samples)
    assert not said


def test_a_projects_own_mixer(toolkit):
    """The example of `Mixer`, registered by a project: it changes inputs, keeps no state."""
    from mmkd.models.mixers import Mix, Mixer
    from mmkd.registry import MODELS

    class FlipMixer(Mixer):
        def __init__(self, task, networks, preprocessor, prob=0.5):
            super().__init__(task, networks, preprocessor)
            self.prob, self.generator = prob, torch.Generator().manual_seed(0)

        def __call__(self, inputs, data_samples):
            if torch.rand((), generator=self.generator) < self.prob:
                inputs = inputs.flip(-1)
            return Mix(inputs, list(data_samples))

    MODELS.register_module(module=FlipMixer, force=True)
    try:
        model = make(toolkit, dict(type='FlipMixer', prob=1.0), sharing='ml_p')
        inputs, samples = prepared(model)
        seen, terms = seen_inputs(model, inputs, samples)
        assert torch.equal(seen['student1'], inputs.flip(-1))
        assert model.mixer.state_dict() == {} and all(torch.isfinite(v) for v in terms.values())
    finally:
        MODELS.module_dict.pop('FlipMixer')


def test_batch_augments_that_mix_already_are_refused(toolkit):
    augments = dict(augments=[dict(type='Mixup', alpha=0.8)])
    with pytest.raises(
        ValueError,
        match='model.mixer: model.data_preprocessor.batch_augments mixes the images already',
    ):
        make(
            toolkit,
            dict(),
            data_preprocessor=dict(
                mixing.CLS, _scope_='mmpretrain', num_classes=3, batch_augments=augments
            ),
        )


def cached(toolkit, tmp_path, mixer, **kwargs):
    state = make(toolkit).network('student1').state_dict()
    torch.save(state, tmp_path / 't.pth')
    frozen = dict(training='frozen', checkpoint=str(tmp_path / 't.pth'), cache_mb=8)
    members = dict(teacher=mixing.cifar(1, **frozen), student1=mixing.cifar(2))
    return make(toolkit, mixer, members=members, sharing='kd_p', **kwargs)


def test_a_cache_keeps_nothing_that_was_mixed_inside(toolkit, tmp_path):
    """Its images do not show how deep layers were mixed."""
    model = cached(toolkit, tmp_path, {})
    inputs, samples = prepared(model)
    seen = []
    forward = model.links.forward

    def spy(active, batches, *args, **kwargs):
        seen.append(batches['labeled'].readings['teacher', 'prediction'].value)
        return forward(active, batches, *args, **kwargs)

    model.links.forward = spy
    for depth in (2, 2, None, None):
        fix(model, depth=depth)
        model(inputs, copy.deepcopy(samples), mode='loss')
    with torch.no_grad():
        clean = model.network('teacher')(inputs, mode='tensor')
        clean = model.network('teacher').head(model.network('teacher').extract_feat(inputs))
    torch.testing.assert_close(seen[2], clean)
    torch.testing.assert_close(seen[3], clean)
    torch.testing.assert_close(seen[0], seen[1])
    assert not torch.allclose(seen[0], clean)
    assert model.members.caches['teacher'].found == len(inputs)  # of the last step


def test_compiled_members_are_not_mixed_inside(toolkit):
    with pytest.raises(ConfigError, match='model.compile: compiled parts do not see'):
        make(toolkit, {}, compile=dict(backend='eager'))
    make(toolkit, dict(depths=(0,)), compile=dict(backend='eager'))


def test_a_checkpointed_source_is_mixed_in_turns(toolkit):
    members = dict(a=mixing.cifar(1), b=mixing.cifar(2, checkpointing=['backbone']))
    sharing = dict(type='ml_p', students=['a', 'b'])
    logs = []
    for in_turns in (False, True):
        model = make(toolkit, {}, members=members, sharing=sharing, in_turns=in_turns)
        fix(model, depth=2)
        batch = mixing.labelled(LABELS)
        logs.append(model.train_step(batch, toolkit.optim_wrapper(model)))
    for key, value in logs[0].items():
        torch.testing.assert_close(logs[1][key], value, msg=key)
