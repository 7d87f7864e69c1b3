import copy
import itertools

import pytest
import torch

pytest.importorskip('mmpretrain')
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner.checkpoint import get_state_dict as mmengine_state  # noqa: E402
from mmengine.runner.checkpoint import load_state_dict  # noqa: E402

COUNTER = itertools.count()
CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
SWIN = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
PLAIN = dict(
    type='ClsDataPreprocessor', mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], to_rgb=True
)
PRESETS = [
    'individual',
    'kd_p',
    'kd_f',
    'kd_mixed',
    'ml_p',
    'ml_f',
    'ml_mixed',
    'kdml_p',
    'kdml_f',
    'kdml_mixed_complement',
    'kdml_mixed_same',
    'kdml_mixed_full',
]


@pytest.fixture(autouse=True)
def mmpretrain_scope(fresh_state):
    DefaultScope.get_instance(f'cls-{next(COUNTER)}', scope_name='mmpretrain')


def cifar_options(width=4, classes=3, **more):
    options = {
        'data_preprocessor': dict(PLAIN),
        'backbone.base_channels': width,
        'backbone.stem_channels': width,
        'head.in_channels': 8 * width,
        'head.num_classes': classes,
        'head.topk': (1,),
    }
    return dict(options, **more)


def cifar(width=4, classes=3, options=None, **kwargs):
    return dict(
        dict(config=CIFAR, options=cifar_options(width, classes, **(options or {}))), **kwargs
    )


def swin(classes=3, options=None, **kwargs):
    cfg = {
        'data_preprocessor': dict(PLAIN),
        'train_cfg': None,
        'backbone.img_size': 32,
        'backbone.arch': dict(
            embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], _delete_=True
        ),
        'backbone.window_size': 4,
        'backbone.pad_small_map': True,
        'head.in_channels': 64,
        'head.num_classes': classes,
        'head.topk': (1,),
    }
    return dict(dict(config=SWIN, options=dict(cfg, **(options or {}))), **kwargs)


def vit(classes=3, **kwargs):
    backbone = dict(
        type='VisionTransformer',
        img_size=32,
        patch_size=8,
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    )
    model = dict(
        type='ImageClassifier',
        backbone=backbone,
        data_preprocessor=dict(PLAIN),
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=classes,
            in_channels=16,
            topk=(1,),
            loss=dict(type='CrossEntropyLoss'),
        ),
    )
    return dict(dict(config=model), **kwargs)


def multi_label(width=4, classes=3, head=None, **kwargs):
    backbone = dict(type='ResNet_CIFAR', depth=18, base_channels=width, stem_channels=width)
    head = dict(
        dict(type='MultiLabelLinearClsHead', num_classes=classes, in_channels=8 * width),
        **(head or {}),
    )
    model = dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=head,
        data_preprocessor=dict(PLAIN),
    )
    return dict(dict(config=model), **kwargs)


def members(students=2, teacher=True, **kwargs):
    named = (
        dict(teacher=cifar(8, seed=10))
        if teacher is True
        else dict(teacher=teacher)
        if teacher
        else {}
    )
    named.update({f'student{i}': cifar(seed=i) for i in range(1, students + 1)})
    return dict(named, **kwargs)


def make(toolkit, **kwargs):
    kwargs.setdefault('members', members())
    kwargs.setdefault('data_preprocessor', dict(PLAIN, _scope_='mmpretrain'))
    return toolkit.make_distiller(**kwargs)


def make_batch(n=4, size=32, seed=0, classes=3, several=False):
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(seed)
    batch = dict(inputs=[], data_samples=[])
    for i in range(n):
        batch['inputs'].append(
            torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        )
        sample = DataSample(
            metainfo=dict(img_shape=(size, size), ori_shape=(size, size), num_classes=classes)
        )
        labels = torch.randperm(classes, generator=generator)
        sample.set_gt_label(labels[: 1 + i % 2] if several else labels[:1])
        batch['data_samples'].append(sample)
    return batch


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def links_of(terms):
    return {key: value for key, value in terms.items() if '/loss_' in key and '[' in key}


def sharpen(model, factor=30):
    """Tell the members' scores apart, which hardly trained networks don't."""
    with torch.no_grad():
        for name in model.evaluated[:-1]:
            model.network(name).head.fc.weight.mul_(factor)
    return model.eval()


def touched(model):
    return {
        name
        for name in model.evaluated[:-1]
        if any(
            p.grad is not None and p.grad.abs().sum() > 0 for p in model.network(name).parameters()
        )
    }


def alone(member, seed, batches, optimizer):
    """Weights of the network trained by plain mmpretrain with the same seed and batches."""
    import mmpretrain
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper

    config, options = member['config'].split('::')[1], member['options']
    cfg = Config.fromfile(f'{mmpretrain.__path__[0]}/.mim/configs/{config}')
    cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    cfg.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    torch.manual_seed(seed)
    network = MODELS.build(cfg.model)
    network.init_weights()
    network.train()
    wrapper = build_optim_wrapper(network, dict(optimizer=optimizer))
    for batch in copy.deepcopy(batches):
        network.train_step(batch, wrapper)
    return network.state_dict()


@pytest.mark.parametrize(
    'optimizer', [dict(type='SGD', lr=0.01, momentum=0.9), dict(type='AdamW', lr=0.001)]
)
def test_zero_sharing_equals_plain_mmpretrain_bit_for_bit(toolkit, optimizer):
    batches = [make_batch(seed=i) for i in range(3)]
    named = members(former=swin(seed=5))
    model = make(toolkit, members=named, sharing='individual')
    start = copy.deepcopy(model.state_dict())
    wrapper = toolkit.optim_wrapper(model, optimizer=optimizer)
    for batch in copy.deepcopy(batches):
        model.train_step(batch, wrapper)
    for name, seed in (
        ('teacher', 10),
        ('student1', 1),
        ('former', 5),
    ):  # Swin draws random drop paths
        expected = alone(named[name], seed, batches, optimizer)
        own = model.network(name).state_dict()
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[key], expected[key]) for key in expected), name
        assert any(not torch.equal(own[key], start[f'members.{name}.{key}']) for key in own)


def test_sharing_changes_the_students_alone(toolkit):
    weights = {}
    for sharing in ('individual', 'kdml_p'):
        model = make(toolkit, sharing=sharing)
        wrapper = toolkit.optim_wrapper(model)
        for seed in range(2):
            model.train_step(make_batch(seed=seed), wrapper)
        weights[sharing] = {
            name: model.network(name).state_dict() for name in ('teacher', 'student1')
        }
    same = {
        name: all(torch.equal(value, weights['kdml_p'][name][key]) for key, value in state.items())
        for name, state in weights['individual'].items()
    }
    assert same == dict(teacher=True, student1=False)


@pytest.mark.parametrize('kind', ['cifar', 'swin', 'multi_label'])
def test_nothing_flows_into_a_source(toolkit, kind):
    named = dict(
        cifar=members(),
        swin=members(teacher=swin(seed=3)),
        multi_label=dict(teacher=multi_label(8), student1=multi_label(), student2=multi_label()),
    )[kind]
    model = make(toolkit, members=named, sharing='kdml_mixed_full')
    links = links_of(losses_of(model, make_batch(several=kind == 'multi_label')))
    assert len(links) == 6 and all(value > 0 for value in links.values())
    for key, value in links.items():
        model.zero_grad()
        value.backward(retain_graph=True)
        assert touched(model) == {key.split('/')[0]}, key


@pytest.mark.parametrize('several', [False, True])
@pytest.mark.parametrize('preset', PRESETS)
def test_every_preset_trains(toolkit, preset, several):
    named = (
        members()
        if not several
        else dict(teacher=multi_label(8), student1=multi_label(), student2=multi_label())
    )
    model = make(
        toolkit,
        members=named,
        sharing=preset if preset == 'individual' else dict(type=preset, tau=2.0),
    )
    wrapper = toolkit.optim_wrapper(model)
    for seed in range(2):
        log = model.train_step(make_batch(seed=seed, several=several), wrapper)
    assert all(torch.isfinite(value) for value in log.values()), log
    assert len(links_of(log)) == len(model.links) and (preset == 'individual') == (not model.links)


def forms_of(model):
    """The form of the classes in each link's loss and combiner."""
    parts = [p for link in model.links for p in (link.loss, link.combiner) if p is not None]
    return {getattr(part, 'activation', None) or part.mode for part in parts}


NAMED = [
    dict(sharing=dict(type='ml_p', peers=dict(type='MeanProbability'))),
    dict(sharing=dict(type='ml_p', tau=None, prediction=dict(type='KLDivergence'))),
    dict(sharing=dict(type='ml_p', tau=None, prediction=dict(type='PseudoLabel', mode='soft'))),
    dict(sharing=dict(type='ml_p', tau=None, prediction=dict(type='DIST'))),
    *(dict(sharing=dict(type=p, on='both')) for p in ('cps', 'mean_teacher', 'peers_ema')),
    dict(sharing='fixmatch'),
    dict(links=[dict(source=['a', 'b'], target='c', tap='prediction', combine='MeanProbability')]),
    dict(links=[dict(source=['a', 'b'], target='c', tap='prediction', combine='Attention')]),
]


@pytest.mark.parametrize('changes', NAMED, ids=range(len(NAMED)))
def test_labels_that_exclude_no_other_are_independent_in_all_that_a_config_names(toolkit, changes):
    named = {name: multi_label(seed=i) for i, name in enumerate('abc')}
    assert forms_of(make(toolkit, members=named, **changes)) == {'sigmoid'}
    one_label = {name: cifar(seed=i) for i, name in enumerate('abc')}
    assert forms_of(make(toolkit, members=one_label, **changes)) <= {'auto', 'softmax'}


def test_a_form_that_the_config_names_stays(toolkit):
    named = {name: multi_label(seed=i) for i, name in enumerate('ab')}
    loss = dict(type='KLDivergence', mode='softmax')
    model = make(toolkit, members=named, sharing=dict(type='ml_p', tau=None, prediction=loss))
    assert forms_of(model) == {'softmax'}


def test_the_networks_own_loss_is_no_sum_of_the_member(toolkit):
    """mmpretrain's single term is called `loss`; the member's sum has that name too."""
    model = make(toolkit, members=members(teacher=False), sharing='ml_p')
    terms = losses_of(model, make_batch())
    assert set(terms) == {
        'student1/loss_task',
        'student2/loss_task',
        'student1/loss_ml[student2:prediction]',
        'student2/loss_ml[student1:prediction]',
    }
    losses, log = model.parse_losses(terms)
    torch.testing.assert_close(
        log['student1/loss'],
        terms['student1/loss_task'] + terms['student1/loss_ml[student2:prediction]'],
    )
    assert set(losses) == {'student1', 'student2'}


def test_the_link_term_equals_the_divergence_of_the_heads_logits(toolkit):
    model = sharpen(make(toolkit, sharing=dict(type='kd_p', tau=3.0)))
    data = model.data_preprocessor(make_batch(), True)
    term = model(**data, mode='loss')['student1/loss_kd[teacher:prediction]'].item()
    with torch.no_grad():
        source, target = (
            model.network(name)(data['inputs'], mode='tensor').double() / 3
            for name in ('teacher', 'student1')
        )
    expected = (
        9
        * (source.softmax(1) * (source.log_softmax(1) - target.log_softmax(1))).sum(1).mean().item()
    )
    assert term == pytest.approx(expected, rel=1e-4) and term > 0


@pytest.mark.parametrize('tap', ['prediction', 'feature'])
@pytest.mark.parametrize('source, target', [('cnn', 'former'), ('former', 'cnn')])
def test_convolutions_and_transformers_teach_each_other(toolkit, tap, source, target):
    model = make(
        toolkit,
        members=dict(cnn=cifar(seed=1), former=swin(seed=2)),
        links=[dict(source=source, target=target, tap=tap)],
    )
    (link,) = model.links
    module = link
    shapes = {
        name: value.shape[1:]
        for (name, _), value in model.read_taps(torch.zeros(1, 3, 32, 32), None).items()
    }
    assert shapes == (
        dict(cnn=(3,), former=(3,))
        if tap == 'prediction'
        else dict(cnn=(32, 4, 4), former=(64, 1, 1))
    )
    assert (
        type(module.connectors[0]).__name__
        == dict(prediction='Identity', feature='ConvConnector')[tap]
    )
    wrapper = toolkit.optim_wrapper(model, optimizer=dict(type='SGD', lr=0.1))
    before = copy.deepcopy(model.network(target).backbone.state_dict())
    terms = [
        model.train_step(make_batch(seed=seed), wrapper)[link.terms[0]].item() for seed in range(2)
    ]
    assert all(0 < term < 100 for term in terms)
    after = model.network(target).backbone.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize('source, target', [('cnn', 'vit'), ('vit', 'cnn')])
def test_a_vision_transformer_and_vectors(toolkit, source, target):
    pair, taps = dict(cnn=cifar(seed=1), vit=vit(seed=2)), dict(cnn='neck', vit='feature')
    model = make(
        toolkit,
        members=pair,
        links=[
            dict(source=source, target=target),
            dict(
                source=source,
                target=target,
                loss=dict(type='FeatureMSE'),
                source_tap=taps[source],
                target_tap=taps[target],
            ),
        ],
    )
    assert type(list(model.links)[1].connectors[0]).__name__ == 'ConvConnector'
    log = model.train_step(make_batch(), toolkit.optim_wrapper(model))
    assert all(torch.isfinite(value) for value in log.values()) and all(
        value > 0 for value in links_of(log).values()
    )


def test_a_map_and_a_vector_are_refused_with_both_sides(toolkit):
    with pytest.raises(ValueError) as error:
        make(
            toolkit,
            members=dict(cnn=cifar(), vit=vit()),
            links=[dict(source='cnn', target='vit', tap='feature')],
        )
    assert 'model.links[0]' in str(error.value) and 'vit.feature (1, 16)' in str(error.value)
    assert 'cnn.feature (1, 32, ' in str(error.value)


@pytest.mark.parametrize('builds', [(cifar, swin), (swin, cifar), (multi_label, multi_label)])
def test_other_numbers_of_classes_are_refused_with_both_sides(toolkit, builds):
    with pytest.raises(ValueError) as error:
        make(
            toolkit,
            members=dict(a=builds[0](classes=3), b=builds[1](classes=4)),
            links=[dict(source='b', target='a')],
        )
    message = str(error.value)
    assert (
        message.startswith('model.links[0]')
        and 'a.prediction (1, 3)' in message
        and 'b.prediction (1, 4)' in message
    )


@pytest.mark.parametrize('source, side', [('v', 'target_tap'), ('c', 'source_tap')])
def test_a_map_and_a_vector_are_told_with_what_works(toolkit, source, side):
    target = 'c' if source == 'v' else 'v'
    named = dict(v=vit(seed=1), c=cifar(seed=2))
    link = dict(source=source, target=target, tap='feature')
    message = rf"features differ in shape: .* link the pooled map \({side}='neck'\), or take"
    with pytest.raises(ValueError, match=message):
        make(toolkit, members=named, links=[link])
    taps = {'source_tap': 'feature', 'target_tap': 'feature', side: 'neck'}
    pooled = dict(source=source, target=target, loss=dict(type='PearsonFeature'), **taps)
    make(toolkit, members=named, links=[pooled])
    make(toolkit, members=named, links=[dict(link, loss=dict(type='SimilarityPreserving'))])


def test_single_and_multi_label_members_are_refused(toolkit):
    with pytest.raises(
        ValueError, match="some heads are multi-label, others not.*'b': 'MultiLabelLinearClsHead'"
    ):
        make(toolkit, members=dict(a=cifar(), b=multi_label()))


def timm_member(classes=3, **kwargs):
    config = dict(
        type='TimmClassifier',
        _scope_='mmpretrain',
        model_name='test_resnet',
        num_classes=classes,
        data_preprocessor=dict(PLAIN),
    )
    return dict(config=config, **kwargs)


def test_a_classifier_of_timm_shares_its_logits(toolkit):
    pytest.importorskip('timm')
    named = dict(a=timm_member(seed=1), b=cifar(seed=2))
    model = make(toolkit, members=named, sharing='ml_p')
    losses = losses_of(model, make_batch(size=64))
    assert all(value > 0 for value in links_of(losses).values())
    data = model.data_preprocessor(make_batch(size=64), True)
    read = model.read_taps(data['inputs'], None)['a', 'prediction']
    with torch.no_grad():
        torch.testing.assert_close(read, model.network('a').eval()(data['inputs']))
    assert model.evaluated == ['a', 'b', 'ensemble']
    with pytest.raises(ValueError, match="differ in classes: {'a': 4, 'b': 3}"):
        make(toolkit, members=dict(a=timm_member(classes=4), b=cifar()))
    with pytest.raises(ValueError, match="not: {'b': 'MultiLabelLinearClsHead', 'a': 'Timm"):
        make(toolkit, members=dict(a=timm_member(), b=multi_label()))


def test_weights_of_a_classifier_of_timm_are_named_as_alone(toolkit):
    """Its hooks rename them; torch calls those of a network inside another on loading alone."""
    pytest.importorskip('timm')
    named = dict(a=timm_member(seed=1), b=cifar(seed=2))
    model, other = (make(toolkit, members=named) for _ in range(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    state = model.state_dict()
    assert list(mmengine_state(model)) == list(state)
    own = [key.removeprefix('members.a.') for key in state if key.startswith('members.a.')]
    assert own == list(model.network('a').state_dict())
    other.load_state_dict(state)
    load_state_dict(other, state, strict=True)
    for one, same in zip(model.parameters(), other.parameters()):
        assert torch.equal(one, same)


def test_features_of_a_classifier_of_timm_are_named_by_their_path(toolkit):
    pytest.importorskip('timm')
    named = dict(a=timm_member(seed=1), b=cifar(seed=2))
    message = "of 'a' does not tell where its features are: name a module's path, .*model.layer4"
    with pytest.raises(ValueError, match=message):
        make(toolkit, members=named, sharing='ml_f')
    link = dict(source='a', target='b', source_tap='model.layer4', target_tap='feature')
    link['loss'] = dict(type='PearsonFeature')
    losses = losses_of(make(toolkit, members=named, links=[link]), make_batch(size=64))
    assert all(value > 0 for value in links_of(losses).values())


@pytest.mark.parametrize('several', [False, True])
def test_the_form_of_the_prediction_loss(toolkit, several):
    build = multi_label if several else cifar
    model = make(toolkit, members=dict(a=build(seed=1), b=build(seed=2)), sharing='ml_p')
    assert [module.loss.mode for module in model.links] == ['sigmoid' if several else 'softmax'] * 2
    assert model.ensemble.multi_label is several


def test_training_step_in_bfloat16_on_cpu(toolkit):
    model = make(toolkit, members=members(teacher=swin(seed=3)), sharing='kdml_mixed_full')
    wrapper = toolkit.optim_wrapper(model, type='AmpOptimWrapper', dtype='bfloat16')
    seen = []
    model.network('student1').head.register_forward_hook(
        lambda m, a, output: seen.append(output.dtype)
    )
    for seed in range(2):
        log = model.train_step(make_batch(seed=seed), wrapper)
    assert all(torch.isfinite(value) for value in log.values()) and seen == [torch.bfloat16] * 2
    assert all(value.dtype == torch.float32 for value in links_of(log).values())
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_mixed_labels_train_all_members_on_the_same_mix(toolkit):
    augments = dict(augments=[dict(type='Mixup', alpha=0.8)])
    named = {
        name: cifar(seed=i, options={'data_preprocessor': dict(PLAIN, num_classes=3)})
        for i, name in enumerate('ab')
    }
    model = make(
        toolkit,
        members=named,
        sharing='ml_p',
        data_preprocessor=dict(PLAIN, num_classes=3, batch_augments=augments, _scope_='mmpretrain'),
    )
    seen = {}
    for name in 'ab':
        model.network(name).backbone.register_forward_pre_hook(
            lambda m, args, name=name: seen.update({name: args[0]})
        )
    batch = make_batch()
    log = model.train_step(copy.deepcopy(batch), toolkit.optim_wrapper(model))
    assert all(torch.isfinite(value) for value in log.values()) and torch.equal(
        seen['a'], seen['b']
    )
    plain = model.network('a').data_preprocessor(copy.deepcopy(batch), True)['inputs']
    assert not torch.allclose(seen['a'], plain)


@pytest.mark.parametrize('place', ['train_cfg', 'data_preprocessor.batch_augments'])
def test_mixed_labels_of_a_member_are_said_to_be_unused(toolkit, monkeypatch, place):
    said = []
    module = 'mmkd.models.distillers.preprocessing.print_log'
    monkeypatch.setattr(module, lambda text, **kwargs: said.append(text))
    augments = dict(augments=[dict(type='Mixup', alpha=0.8)])
    student = cifar(options={place: augments})
    make(toolkit, members=dict(teacher=cifar(8), student1=student))
    (text,) = said
    assert 'the shared ones (none)' in text and 'left unused: those of student1 (' in text


def test_members_with_their_own_normalisation_see_their_own_inputs(toolkit):
    own = dict(
        type='ClsDataPreprocessor', mean=[90.0, 80.0, 70.0], std=[30.0, 40.0, 50.0], to_rgb=False
    )
    model = make(
        toolkit, members=dict(a=cifar(seed=1), b=cifar(seed=2, options=dict(data_preprocessor=own)))
    )
    batch, seen = make_batch(), {}
    for name in 'ab':
        model.network(name).backbone.register_forward_pre_hook(
            lambda m, args, name=name: seen.update({name: args[0]})
        )
    losses_of(model, batch)
    for name in 'ab':
        expected = model.network(name).data_preprocessor(copy.deepcopy(batch), True)['inputs']
        torch.testing.assert_close(seen[name], expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- inference and ensembles


def plain_predictions(model, name, batch):
    with torch.no_grad():
        return model.network(name).eval().test_step(copy.deepcopy(batch))


@pytest.mark.parametrize('fusion', ['probability', 'logits'])
def test_the_ensemble_is_the_mean_of_its_members(toolkit, fusion):
    model = sharpen(make(toolkit, ensemble=dict(fusion=fusion)))
    batch = make_batch(seed=4)
    results = model.predict_members(copy.deepcopy(batch))
    assert list(results) == ['teacher', 'student1', 'student2', 'ensemble']
    inputs = model.data_preprocessor(copy.deepcopy(batch), False)['inputs']
    with torch.no_grad():
        logits = torch.stack(
            [
                model.network(name)(inputs, mode='tensor').double()
                for name in ('student1', 'student2')
            ]
        )
    assert (logits[0].softmax(1) - logits[1].softmax(1)).abs().max() > 0.1
    expected = logits.softmax(2).mean(0) if fusion == 'probability' else logits.mean(0).softmax(1)
    for image, fused in enumerate(results['ensemble']):
        torch.testing.assert_close(fused.pred_score.double(), expected[image], rtol=1e-4, atol=1e-6)
        assert fused.pred_label.tolist() == [expected[image].argmax().item()]
        assert torch.equal(fused.gt_label, batch['data_samples'][image].gt_label)
    for name in ('student1', 'student2'):
        for one, other in zip(results[name], plain_predictions(model, name, batch)):
            assert torch.equal(one.pred_score, other.pred_score) and torch.equal(
                one.pred_label, other.pred_label
            )


@pytest.mark.parametrize('fusion', ['probability', 'logits'])
@pytest.mark.parametrize('build', [cifar, multi_label])
def test_an_ensemble_of_one_is_that_member(toolkit, fusion, build):
    model = sharpen(
        make(
            toolkit,
            members=dict(a=build(seed=1), b=build(seed=2)),
            ensemble=dict(members=['b'], fusion=fusion),
        ),
        5,
    )
    results = model.predict_members(make_batch(several=build is multi_label))
    for one, fused in zip(results['b'], results['ensemble']):
        assert one.pred_label.tolist() == fused.pred_label.tolist()
        torch.testing.assert_close(one.pred_score, fused.pred_score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('head', [dict(), dict(thr=0.4), dict(topk=2)])
@pytest.mark.parametrize('fusion', ['probability', 'logits'])
def test_the_ensemble_of_several_labels(toolkit, fusion, head):
    model = sharpen(
        make(
            toolkit,
            members={
                name: multi_label(classes=5, head=head, seed=i) for i, name in enumerate('ab')
            },
            ensemble=dict(fusion=fusion),
        )
    )
    batch = make_batch(classes=5, several=True)
    inputs = model.data_preprocessor(copy.deepcopy(batch), False)['inputs']
    with torch.no_grad():
        logits = torch.stack([model.network(name)(inputs, mode='tensor').double() for name in 'ab'])
    expected = logits.sigmoid().mean(0) if fusion == 'probability' else logits.mean(0).sigmoid()
    results = model.predict_members(copy.deepcopy(batch))
    for image, fused in enumerate(results['ensemble']):
        torch.testing.assert_close(fused.pred_score.double(), expected[image], rtol=1e-3, atol=1e-4)
        labels = (
            expected[image].topk(2)[1]
            if 'topk' in head
            else torch.where(expected[image] >= head.get('thr', 0.5))[0]
        )
        assert sorted(fused.pred_label.tolist()) == sorted(labels.tolist())


def test_the_forward_pass_for_inference_is_the_ensemble(toolkit):
    model = make(toolkit).eval()
    batch = make_batch()
    fused = model.test_step(copy.deepcopy(batch))
    for one, other in zip(fused, model.predict_members(copy.deepcopy(batch))['ensemble']):
        assert torch.equal(one.pred_score, other.pred_score)


def test_a_frozen_and_an_ema_teacher(toolkit, tmp_path):
    torch.save(
        dict(state_dict=make(toolkit).network('teacher').state_dict()), tmp_path / 'teacher.pth'
    )
    frozen = cifar(8, training='frozen', checkpoint=str(tmp_path / 'teacher.pth'))
    model = make(
        toolkit,
        members=members(teacher=frozen, mean=dict(training='ema', of='student1')),
        sharing='kdml_mixed_full',
        links=[dict(source='mean', target='student1', tap='feature')],
    )
    log = model.train_step(make_batch(), toolkit.optim_wrapper(model))
    assert all(torch.isfinite(value) for value in log.values())
    assert (
        log['student1/loss_kd[teacher:prediction]'] > 0
        and log['student2/loss_kd[teacher:feature]'] > 0
    )
    assert 'student1/loss_kd[mean:feature]' in log and not model.network('teacher').training


@pytest.mark.parametrize(
    'tap, shapes',
    [
        ('backbone.layer1', dict(teacher=(1, 8, 32, 32), student1=(1, 4, 32, 32))),
        ('neck', dict(teacher=(1, 64), student1=(1, 32))),
    ],
)
def test_other_taps_by_path(toolkit, tap, shapes):
    model = make(
        toolkit,
        members=members(students=1),
        sharing=dict(type='kd_f', feature_tap=tap, feature=dict(type='FeatureMSE')),
    )
    values = model.read_taps(torch.zeros(1, 3, 32, 32), None)
    assert {name: tuple(value.shape) for (name, _), value in values.items()} == shapes
    log = model.train_step(make_batch(), toolkit.optim_wrapper(model))
    assert (
        all(torch.isfinite(value) for value in log.values())
        and log[f'student1/loss_kd[teacher:{tap}]'] > 0
    )


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(task='clasification'), "did you mean 'classification'"),
        (dict(ensemble=dict(fusion='votes')), 'fusion: unknown name'),
        (dict(ensemble=dict(weight=1)), 'model.ensemble.weight'),
    ],
)
def test_wrong_configs(toolkit, cfg, message):
    with pytest.raises(ValueError, match=message):
        make(toolkit, **cfg)


def test_networks_of_a_fixed_window_find_their_probe_size(toolkit):
    model = make(
        toolkit,
        members=dict(
            student1=cifar(), student2=dict(swin(options={'backbone.window_size': 7}), seed=2)
        ),
        sharing='ml_f',
    )
    assert len(model.links) == 2


def test_no_probe_size_for_all_members_is_one_error(toolkit, monkeypatch):
    monkeypatch.setattr('mmkd.models.distillers.online_distiller.PROBE_SIZES', (64,))
    narrow = dict(
        swin(options={'backbone.window_size': 7, 'backbone.pad_small_map': False}), seed=2
    )
    with pytest.raises(ValueError, match='model.members.student2: .*window .*of 64 pixels a side'):
        make(toolkit, members=dict(student1=cifar(), student2=narrow), sharing='ml_f')


def test_the_ensemble_decides_as_the_members_it_fuses(toolkit):
    several = dict(
        teacher=multi_label(head=dict(thr=0.9)), student1=multi_label(head=dict(thr=0.2))
    )
    assert make(toolkit, members=several, ensemble=dict(members=['student1'])).ensemble.thr == 0.2
    ensemble = make(toolkit, members=several, ensemble=dict(members=['student1'], topk=2)).ensemble
    assert (ensemble.thr, ensemble.topk) == (None, 2)


def test_members_of_other_classes_cannot_be_fused(toolkit):
    with pytest.raises(
        ValueError,
        match=r"model.ensemble.members: members differ in classes: .*'student1': 3, 'student2': 4",
    ):
        make(
            toolkit,
            members=dict(student1=cifar(classes=3, seed=1), student2=cifar(classes=4, seed=2)),
        )


def test_an_option_over_a_value_of_another_kind_names_its_key(toolkit):
    with pytest.raises(ValueError, match='model.members.student1.options'):
        make(toolkit, members=dict(student1=cifar(options={'backbone.type': dict(depth=18)})))


def test_a_teacher_without_head_shares_its_features(toolkit, tmp_path):
    """A feature extractor has no predictions to share, measure or fuse."""
    teacher = cifar(8, options={'head': None}, seed=10)
    alone = make(toolkit, members=dict(teacher=cifar(8, seed=10)))
    state = alone.network('teacher').state_dict()
    path = tmp_path / 'teacher.pth'
    torch.save({k: v for k, v in state.items() if not k.startswith('head')}, path)
    frozen = dict(teacher, training='frozen', checkpoint=str(path))
    named = dict(teacher=frozen, student1=cifar(seed=1))
    model = make(toolkit, members=named, sharing='kd_f')
    (term,) = links_of(losses_of(model, make_batch())).values()
    assert torch.isfinite(term) and term > 0
    assert model.evaluated == ['student1', 'ensemble']
    with pytest.raises(ValueError, match="of 'teacher' has no head for the 'prediction' tap"):
        make(toolkit, members=named, sharing='kd_p')
    with pytest.raises(ValueError, match="ensemble.members: 'teacher' has no head and predicts"):
        make(toolkit, members=named, ensemble=dict(members=['teacher', 'student1']))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('paths', [['head'], ['backbone.layer2'], ['neck', 'backbone']])
def test_unlabeled_images_run_through_the_tapped_modules(toolkit, paths, training):
    model = make(toolkit, members=dict(student1=cifar()))
    network, outputs = model.network('student1').train(training), {}
    for path in paths:
        network.get_submodule(path).register_forward_hook(
            lambda m, a, out, path=path: outputs.setdefault(path, []).append(out)
        )
    model.task.run_for_taps(network, torch.rand(2, 3, 32, 32), None, paths)
    assert {path: len(runs) for path, runs in outputs.items()} == dict.fromkeys(paths, 1)
    value = outputs[paths[0]][0]
    (value[-1] if isinstance(value, tuple) else value).sum().backward()
    assert any(p.grad is not None for p in network.backbone.parameters())
