import copy
import itertools
import math

import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402

COUNTER = itertools.count()
UNET = 'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py'
SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
PLAIN = dict(
    type='SegDataPreProcessor',
    size=(64, 64),
    mean=[120.0, 110.0, 100.0],
    std=[60.0, 55.0, 50.0],
    bgr_to_rgb=True,
)
SEEN = [120.0, 110.0, 100.0], [60.0, 55.0, 50.0]
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
SIGMOID = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)


@pytest.fixture(autouse=True)
def mmseg_scope(fresh_state):
    DefaultScope.get_instance(f'seg-{next(COUNTER)}', scope_name='mmseg')


def unet_options(width=4, classes=2, **more):
    options = {
        'data_preprocessor': dict(PLAIN),
        'backbone.base_channels': width,
        'backbone.norm_cfg.type': 'BN',
        'backbone.num_stages': 3,
        'backbone.strides': (2, 1, 1),
        'backbone.enc_num_convs': (1, 1, 1),
        'backbone.dec_num_convs': (1, 1),
        'backbone.downsamples': (True, True),
        'backbone.enc_dilations': (1, 1, 1),
        'backbone.dec_dilations': (1, 1),
        'decode_head.norm_cfg.type': 'BN',
        'decode_head.in_index': 2,
        'decode_head.in_channels': width,
        'decode_head.channels': width,
        'decode_head.num_classes': classes,
        'auxiliary_head': None,
        'test_cfg.mode': 'whole',
    }
    return dict(options, **more)


def unet(width=4, classes=2, options=None, **kwargs):
    return dict(
        dict(config=UNET, options=unet_options(width, classes, **(options or {}))), **kwargs
    )


def one_channel(width=4, loss=SIGMOID, **kwargs):
    return unet(
        width,
        options={
            'decode_head.out_channels': 1,
            'decode_head.loss_decode': dict(loss),
            'decode_head.threshold': kwargs.pop('threshold', 0.3),
        },
        **kwargs,
    )


def segformer(classes=2, **kwargs):
    options = {
        'data_preprocessor': dict(PLAIN),
        'backbone.init_cfg': None,
        'backbone.embed_dims': 8,
        'backbone.num_layers': [1, 1, 1, 1],
        'decode_head.in_channels': [8, 16, 40, 64],
        'decode_head.channels': 16,
        'decode_head.num_classes': classes,
        'decode_head.norm_cfg.type': 'BN',
    }
    return dict(dict(config=SEGFORMER, options=options), **kwargs)


def fcn(**more):
    return dict(
        dict(
            type='FCNHead',
            in_channels=4,
            in_index=2,
            channels=4,
            num_convs=1,
            concat_input=False,
            num_classes=2,
            dropout_ratio=0,
            norm_cfg=dict(type='BN'),
            align_corners=False,
            loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        ),
        **more,
    )


def cascade(**kwargs):
    ocr = fcn(type='OCRHead', ocr_channels=4)
    for name in ('num_convs', 'concat_input'):
        ocr.pop(name)
    backbone = dict(
        type='UNet',
        base_channels=4,
        num_stages=3,
        strides=(2, 1, 1),
        enc_num_convs=(1, 1, 1),
        dec_num_convs=(1, 1),
        downsamples=(True, True),
        enc_dilations=(1, 1, 1),
        dec_dilations=(1, 1),
        norm_cfg=dict(type='BN'),
    )
    model = dict(
        type='CascadeEncoderDecoder',
        num_stages=2,
        backbone=backbone,
        decode_head=[fcn(), ocr],
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        data_preprocessor=dict(PLAIN),
    )
    return dict(dict(config=model), **kwargs)


def members(students=2, teacher=True, **kwargs):
    named = (
        dict(teacher=unet(8, seed=10))
        if teacher is True
        else dict(teacher=teacher)
        if teacher
        else {}
    )
    named.update({f'student{i}': unet(seed=i) for i in range(1, students + 1)})
    return dict(named, **kwargs)


def make(toolkit, **kwargs):
    kwargs.setdefault('members', members())
    kwargs.setdefault('data_preprocessor', dict(PLAIN, _scope_='mmseg'))
    return toolkit.make_distiller(**kwargs)


def make_batch(n=2, size=64, seed=0, classes=2):
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    batch = dict(inputs=[], data_samples=[])
    for _ in range(n):
        coarse = torch.randint(0, classes, (1, 1, 8, 8), generator=generator)
        labels = torch.nn.functional.interpolate(coarse.float(), (size, size)).long()[0]
        image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        batch['inputs'].append(image)
        sample = SegDataSample(
            metainfo=dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
        )
        sample.gt_sem_seg = PixelData(data=labels)
        batch['data_samples'].append(sample)
    return batch


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def links_of(terms):
    return {key: value for key, value in terms.items() if '/loss_' in key and '[' in key}


def touched(model):
    return {
        name
        for name in model.evaluated[:-1]
        if any(
            p.grad is not None and p.grad.abs().sum() > 0 for p in model.network(name).parameters()
        )
    }


def alone(options, seed, batches, optimizer, config='unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py'):
    """Weights of the network trained by plain mmseg with the same seed and batches."""
    import mmseg
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper

    cfg = Config.fromfile(f'{mmseg.__path__[0]}/.mim/configs/{config}')
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
def test_zero_sharing_equals_plain_mmseg_bit_for_bit(toolkit, optimizer):
    batches = [make_batch(seed=i) for i in range(3)]
    model = make(toolkit, sharing='individual', members=members(former=segformer(seed=5)))
    start = copy.deepcopy(model.state_dict())
    wrapper = toolkit.optim_wrapper(model, optimizer=optimizer)
    for batch in copy.deepcopy(batches):
        model.train_step(batch, wrapper)
    former = 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
    for name, options, seed, more in (
        ('teacher', unet_options(8), 10, {}),
        ('student2', unet_options(), 2, {}),
        ('former', segformer()['options'], 5, dict(config=former)),
    ):
        expected = alone(options, seed, batches, optimizer, **more)
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


@pytest.mark.parametrize('kind', ['unet', 'segformer', 'cascade', 'one_channel'])
def test_nothing_flows_into_a_source(toolkit, kind):
    networks = dict(
        unet=members(),
        segformer=members(teacher=segformer(seed=3)),
        cascade=members(teacher=cascade(seed=3)),
        one_channel=dict(
            teacher=one_channel(8), student1=one_channel(seed=1), student2=one_channel(seed=2)
        ),
    )[kind]
    model = make(toolkit, members=networks, sharing='kdml_mixed_full')
    links = links_of(losses_of(model, make_batch()))
    assert len(links) == 6 and all(value > 0 for value in links.values())
    for key, value in links.items():
        model.zero_grad()
        value.backward(retain_graph=True)
        assert touched(model) == {key.split('/')[0]}, key


def test_the_prediction_tap_reads_the_logits_that_the_loss_sees(toolkit):
    model = make(toolkit, sharing='kd_p').eval()
    inputs = model.data_preprocessor(make_batch(), False)['inputs']
    for (name, _), value in model.read_taps(inputs, None).items():
        with torch.no_grad():
            network = model.network(name)
            expected = network.decode_head.forward(network.extract_feat(inputs))
        assert torch.equal(value, expected)


@pytest.mark.parametrize('preset', PRESETS)
def test_every_preset_trains(toolkit, preset):
    sharing = preset if preset == 'individual' else dict(type=preset, tau=2.0)
    model = make(toolkit, sharing=sharing)
    wrapper = toolkit.optim_wrapper(model)
    for seed in range(2):
        log = model.train_step(make_batch(seed=seed), wrapper)
    assert all(torch.isfinite(value) for value in log.values()), log
    assert len(links_of(log)) == len(model.links) and (preset == 'individual') == (not model.links)


@pytest.mark.parametrize('tap', ['prediction', 'feature'])
@pytest.mark.parametrize('source, target', [('cnn', 'former'), ('former', 'cnn')])
def test_convolutions_and_transformers_teach_each_other(toolkit, tap, source, target):
    model = make(
        toolkit,
        members=dict(cnn=unet(seed=1), former=segformer(seed=2)),
        links=[dict(source=source, target=target, tap=tap)],
    )
    (link,) = model.links
    module = link
    shapes = {
        name: value.shape
        for (name, _), value in model.read_taps(torch.zeros(1, 3, 64, 64), None).items()
    }
    assert shapes['cnn'][2:] != shapes['former'][2:]
    connector = module.connectors[0]
    assert (
        type(connector).__name__ == dict(prediction='ResizeConnector', feature='ConvConnector')[tap]
    )
    wrapper = toolkit.optim_wrapper(model, optimizer=dict(type='SGD', lr=0.1))
    before = copy.deepcopy(model.network(target).backbone.state_dict())
    terms = [model.train_step(make_batch(), wrapper)[link.terms[0]].item() for _ in range(2)]
    assert all(0 < term < 100 for term in terms)
    after = model.network(target).backbone.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_cascades_are_read_at_their_last_head(toolkit):
    model = make(toolkit, members=members(teacher=cascade(seed=3)), sharing='kdml_mixed_full')
    assert model.members.taps['teacher', 'prediction'].path == 'decode_head.1.conv_seg'
    log = model.train_step(make_batch(), toolkit.optim_wrapper(model))
    assert all(torch.isfinite(value) for value in log.values())
    assert {'teacher/decode_0.loss_ce', 'teacher/decode_1.loss_ce'} <= set(log)
    results = model.eval().predict_members(make_batch())
    assert all(len(samples) == 2 for samples in results.values())


def test_a_cascade_learns(toolkit):
    model = make(toolkit, members=dict(a=cascade(seed=1), b=cascade(seed=2)), sharing='ml_p')
    links = links_of(losses_of(model, make_batch()))
    links['a/loss_ml[b:prediction]'].backward()
    grads = {
        name
        for name, p in model.network('a').named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert any(name.startswith('decode_head.1') for name in grads)
    assert touched(model) == {'a'}


def test_an_auxiliary_head_trains_beside_the_links(toolkit):
    auxiliary = fcn(in_channels=8, in_index=1)
    own = dict(options={'auxiliary_head': auxiliary})
    model = make(toolkit, members=dict(a=unet(**own, seed=1), b=unet(seed=2)), sharing='ml_p')
    terms = losses_of(model, make_batch())
    assert 'a/aux.loss_ce' in terms and 'b/aux.loss_ce' not in terms
    terms['a/loss_ml[b:prediction]'].backward(retain_graph=True)
    assert all(
        p.grad is None or not p.grad.any() for p in model.network('a').auxiliary_head.parameters()
    )
    losses, _ = model.parse_losses(terms)
    parts = [value for key, value in terms.items() if key.startswith('a/') and 'loss' in key]
    torch.testing.assert_close(losses['a'], sum(parts))
    assert len(parts) == 3


# ---------------------------------------------------------------- output channels


@pytest.mark.parametrize('loss', [SIGMOID, dict(type='DiceLoss', loss_weight=1.0)])
def test_one_output_channel_gets_the_sigmoid_form(toolkit, loss):
    model = make(
        toolkit,
        members={name: one_channel(loss=loss, seed=i) for i, name in enumerate('ab')},
        sharing='ml_p',
    )
    assert [module.loss.mode for module in model.links] == ['sigmoid'] * 2
    log = model.train_step(make_batch(), toolkit.optim_wrapper(model))
    assert (
        all(torch.isfinite(value) for value in log.values()) and log['a/loss_ml[b:prediction]'] > 0
    )


def test_two_output_channels_get_the_softmax_form(toolkit):
    model = make(toolkit, members=members(teacher=False), sharing='ml_p')
    assert [module.loss.mode for module in model.links] == ['softmax'] * 2


@pytest.mark.parametrize(
    'target, source',
    [
        ('one', 'two'),
        ('two', 'one'),
        ('two', 'three'),
        ('three', 'former'),
        ('one', 'former'),
    ],
)
def test_members_with_other_channels_are_refused_with_both_sides(toolkit, target, source):
    named = dict(one=one_channel, two=unet, three=lambda: unet(classes=3), former=segformer)
    with pytest.raises(ValueError) as error:
        make(
            toolkit,
            members={name: named[name]() for name in (target, source)},
            links=[dict(source=source, target=target)],
        )
    message = str(error.value)
    assert message.startswith('model.links[0]') and f'{target}.prediction (1, ' in message
    assert f'{source}.prediction (1, ' in message


# ---------------------------------------------------------------- ignored labels


@pytest.mark.parametrize('former', [False, True])
@pytest.mark.parametrize(
    'tap, loss',
    [
        ('prediction', None),
        ('prediction', dict(type='KLDivergence', mode='sigmoid', tau=2.0)),
        ('feature', dict(type='FeatureMSE')),
        ('feature', dict(type='FeatureMSE', normalize='spatial')),
        ('feature', dict(type='FeatureMSE', normalize='none')),
    ],
)
def test_what_stands_at_ignored_pixels_changes_no_link(toolkit, tap, loss, former):
    pair = dict(
        a=unet(seed=1), b=segformer(seed=2) if former and tap == 'prediction' else unet(8, seed=2)
    )
    model = make(
        toolkit,
        members=pair,
        links=[dict(source='b', target='a', tap=tap, loss=loss, connector='auto')],
    )
    batch = make_batch()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data[..., :32] = 255

    def term(noise, where):
        handles = []
        for name in 'ab':

            def spoil(module, args, output, name=name):
                if name in noise:
                    output = list(output) if isinstance(output, (tuple, list)) else output
                    value = output[-1] if isinstance(output, list) else output
                    half = value.shape[-1] // 2
                    changed = torch.where(
                        (torch.arange(value.shape[-1]) < half) == (where == 'ignored'),
                        value * 3 + 5,
                        value,
                    )
                    if isinstance(output, list):
                        output[-1] = changed
                        return tuple(output)
                    return changed
                return None

            module = dict(model.network(name).named_modules())[model.members.taps[name, tap].path]
            # Before the recorder, whose hook stands first: a pre-hook is no place for outputs.
            handles.append(module.register_forward_hook(spoil, prepend=True))
        try:
            torch.manual_seed(0)
            return links_of(losses_of(model, batch))[f'a/loss_kd[b:{tap}]'].item()
        finally:
            for handle in handles:
                handle.remove()

    model.eval()
    plain = term('', 'ignored')
    assert plain > 0 and term('a', 'ignored') == plain and term('b', 'ignored') == plain
    if not (former and tap == 'feature'):
        assert term('a', 'counted') != plain and term('b', 'counted') != plain


@pytest.mark.parametrize('head', ['two', 'one'])
def test_a_batch_of_ignored_pixels_alone_gives_zero_and_finite_gradients(toolkit, head):
    def build(**kwargs):  # mmseg's sigmoid cross entropy itself fails without a valid pixel
        return (
            unet(**kwargs) if head == 'two' else one_channel(loss=dict(type='DiceLoss'), **kwargs)
        )

    model = make(
        toolkit,
        members={name: build(seed=i) for i, name in enumerate('abc')},
        sharing=dict(type='kdml_mixed_full', teacher='a'),
    )
    batch = make_batch()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data.fill_(255)
    links = links_of(losses_of(model, batch))
    assert len(links) == 6 and all(value == 0 for value in links.values())
    sum(links.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() and not g.any() for g in gradients)


def test_infinite_logits_at_ignored_pixels_reach_no_gradient(toolkit):
    model = make(
        toolkit, members=members(teacher=False), links=[dict(source='student1', target='student2')]
    )
    batch = make_batch()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data[..., :32] = 255

    def spoil(module, args, output):
        output = output.clone()
        output[..., : output.shape[-1] // 2] = float('inf')
        return output

    model.network('student1').decode_head.conv_seg.register_forward_hook(spoil, prepend=True)
    value = links_of(losses_of(model, batch))['student2/loss_kd[student1:prediction]']
    value.backward()
    assert torch.isfinite(value) and touched(model) == {'student2'}
    assert all(
        torch.isfinite(p.grad).all()
        for p in model.network('student2').parameters()
        if p.grad is not None
    )


def test_padding_counts_in_no_link(toolkit):
    """A smaller image is padded to the common size; the term is that of its valid pixels alone."""
    model = make(
        toolkit, members=members(teacher=False), links=[dict(source='student1', target='student2')]
    )
    batch = make_batch(n=1, size=48)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    assert data['inputs'].shape[-2:] == (64, 64)
    model.eval()
    value = links_of(model(**data, mode='loss'))['student2/loss_kd[student1:prediction]']
    logits = {
        name: tap
        for (name, _), tap in model.read_taps(data['inputs'], data['data_samples']).items()
    }
    stride = 64 // logits['student1'].shape[-1]
    source, target = (
        logits[name][..., : 48 // stride, : 48 // stride].double()
        for name in ('student1', 'student2')
    )
    expected = (source.softmax(1) * (source.log_softmax(1) - target.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-7)
    whole = logits['student1'].double(), logits['student2'].double()
    unmasked = (
        (whole[0].softmax(1) * (whole[0].log_softmax(1) - whole[1].log_softmax(1))).sum(1).mean()
    )
    assert abs(unmasked - expected) > 1e-5 * expected


def test_the_members_own_ignore_index_is_used(toolkit):
    pair = {
        name: unet(seed=i, options={'decode_head.ignore_index': 1}) for i, name in enumerate('ab')
    }
    model = make(toolkit, members=pair, sharing='ml_p')
    mask = model.task.valid_mask(make_batch()['data_samples'])
    labels = torch.stack([s.gt_sem_seg.data for s in make_batch()['data_samples']])
    assert (
        mask.shape == (2, 1, 64, 64)
        and torch.equal(mask, (labels != 1).float())
        and 0 < mask.mean() < 1
    )


# ---------------------------------------------------------------- inference and ensembles


def test_training_step_in_bfloat16_on_cpu(toolkit):
    model = make(toolkit, members=members(teacher=segformer(seed=3)), sharing='kdml_mixed_full')
    wrapper = toolkit.optim_wrapper(model, type='AmpOptimWrapper', dtype='bfloat16')
    seen = []
    model.network('student1').backbone.register_forward_hook(
        lambda m, a, output: seen.append(output[-1].dtype)
    )
    for seed in range(2):
        log = model.train_step(make_batch(seed=seed), wrapper)
    assert all(torch.isfinite(value) for value in log.values()) and torch.bfloat16 in seen
    assert all(value.dtype == torch.float32 for value in links_of(log).values())
    assert all(torch.isfinite(p).all() for p in model.parameters())


def plain_predictions(model, name, batch):
    network = model.network(name).eval()
    with torch.no_grad():
        return network.test_step(copy.deepcopy(batch))


@pytest.mark.parametrize('fusion', ['probability', 'logits'])
def test_the_ensemble_is_the_mean_of_its_members(toolkit, fusion):
    model = make(
        toolkit, members=members(teacher=segformer(seed=3)), ensemble=dict(fusion=fusion)
    ).eval()
    batch = make_batch(seed=4)
    results = model.predict_members(copy.deepcopy(batch))
    assert list(results) == ['teacher', 'student1', 'student2', 'ensemble']
    logits = [
        [s.seg_logits.data.double() for s in plain_predictions(model, name, batch)]
        for name in ('student1', 'student2')
    ]
    for image in range(2):
        stacked = torch.stack([member[image] for member in logits])
        expected = (
            stacked.softmax(1).mean(0) if fusion == 'probability' else stacked.mean(0).softmax(0)
        )
        fused = results['ensemble'][image]
        torch.testing.assert_close(
            fused.seg_logits.data.double().softmax(0), expected, rtol=1e-5, atol=1e-6
        )
        clear = (expected[0] - expected[1]).abs() > 1e-4
        assert fused.pred_sem_seg.data.shape == (1, 64, 64) and clear.float().mean() > 0.9
        assert torch.equal(fused.pred_sem_seg.data[0][clear], expected.argmax(0)[clear])
        for name, member in zip(('student1', 'student2'), logits):
            torch.testing.assert_close(results[name][image].seg_logits.data.double(), member[image])


@pytest.mark.parametrize('fusion', ['probability', 'logits'])
@pytest.mark.parametrize('build', [unet, one_channel])
def test_an_ensemble_of_one_is_that_member(toolkit, fusion, build):
    model = make(
        toolkit,
        members=dict(a=build(seed=1), b=build(seed=2)),
        ensemble=dict(members=['b'], fusion=fusion),
    ).eval()
    results = model.predict_members(make_batch())
    for one, fused in zip(results['b'], results['ensemble']):
        assert torch.equal(one.pred_sem_seg.data, fused.pred_sem_seg.data)
        if build is unet:
            own, other = one.seg_logits.data.softmax(0), fused.seg_logits.data.softmax(0)
        else:
            own, other = one.seg_logits.data, fused.seg_logits.data
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize('threshold', [0.3, 0.6])
@pytest.mark.parametrize('fusion', ['probability', 'logits'])
def test_the_ensemble_of_one_channel(toolkit, fusion, threshold):
    pair = {name: one_channel(seed=i, threshold=threshold) for i, name in enumerate('ab')}
    model = make(toolkit, members=pair, ensemble=dict(fusion=fusion)).eval()
    with torch.no_grad():
        for name, bias in zip('ab', (0.4, -1.0)):  # probabilities on both sides of either threshold
            model.network(name).decode_head.conv_seg.weight.mul_(60)
            model.network(name).decode_head.conv_seg.bias.fill_(bias)
    batch = make_batch(seed=2)
    results = model.predict_members(copy.deepcopy(batch))
    scores = [
        [s.seg_logits.data.double() for s in plain_predictions(model, name, batch)] for name in 'ab'
    ]
    for image in range(2):
        stacked = torch.stack([member[image] for member in scores])
        assert stacked.min() >= 0 and stacked.max() <= 1
        expected = (
            stacked.mean(0)
            if fusion == 'probability'
            else torch.special.expit(torch.logit(stacked).mean(0))
        )
        fused = results['ensemble'][image]
        torch.testing.assert_close(fused.seg_logits.data.double(), expected, rtol=1e-4, atol=1e-5)
        clear = (expected - threshold).abs() > 1e-4
        assert torch.equal((fused.pred_sem_seg.data > 0)[clear], (expected > threshold)[clear])
        assert 0 < fused.pred_sem_seg.data.float().mean() < 1


def test_the_forward_pass_for_inference_is_the_ensemble(toolkit):
    model = make(toolkit).eval()
    batch = make_batch()
    fused = model.test_step(copy.deepcopy(batch))
    members_ = model.predict_members(copy.deepcopy(batch))
    for one, other in zip(fused, members_['ensemble']):
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)


@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_whole_and_slide_inference_go_through_predict(toolkit, mode):
    test_cfg = (
        dict(mode=mode, crop_size=(32, 32), stride=(16, 16)) if mode == 'slide' else dict(mode=mode)
    )
    pair = {name: unet(seed=i, options={'test_cfg': test_cfg}) for i, name in enumerate('ab')}
    model = make(toolkit, members=pair, sharing='ml_p').eval()
    runs = []
    model.network('a').backbone.register_forward_hook(
        lambda m, args, output: runs.append(tuple(args[0].shape[-2:]))
    )
    batch = make_batch()
    results = model.predict_members(copy.deepcopy(batch))
    assert runs == ([(64, 64)] if mode == 'whole' else [(32, 32)] * 9)
    for name in 'ab':
        for one, other in zip(results[name], plain_predictions(model, name, batch)):
            assert torch.equal(one.seg_logits.data, other.seg_logits.data)
    assert not any(tap.recorder.outputs for tap in model.members.taps.values())


def test_a_sliding_frozen_teacher_is_read_on_whole_images(toolkit, tmp_path):
    slide = unet(8, options={'test_cfg': dict(mode='slide', crop_size=(32, 32), stride=(16, 16))})
    torch.save(
        dict(state_dict=make(toolkit, members=members()).network('teacher').state_dict()),
        tmp_path / 't.pth',
    )
    frozen = dict(slide, training='frozen', checkpoint=str(tmp_path / 't.pth'))
    model = make(toolkit, members=members(teacher=frozen), sharing='kdml_mixed_full')
    log = model.train_step(make_batch(), toolkit.optim_wrapper(model))
    assert all(torch.isfinite(value) for value in log.values())
    assert log['student1/loss_kd[teacher:prediction]'] > 0 and not model.network('teacher').training


def test_an_ema_member_teaches(toolkit):
    model = make(
        toolkit,
        members=members(teacher=False, mean=dict(training='ema', of='student1')),
        links=[
            dict(source='mean', target='student2'),
            dict(source='mean', target='student1', tap='feature'),
        ],
    )
    log = model.train_step(make_batch(), toolkit.optim_wrapper(model))
    assert log['student2/loss_kd[mean:prediction]'] > 0 and torch.isfinite(
        log['student1/loss_kd[mean:feature]']
    )


def test_members_with_their_own_normalisation_see_their_own_inputs(toolkit):
    own = dict(
        type='SegDataPreProcessor',
        size=(64, 64),
        mean=[90.0, 80.0, 70.0],
        std=[30.0, 40.0, 50.0],
        pad_val=3,
    )
    model = make(
        toolkit, members=dict(a=unet(seed=1), b=unet(seed=2, options=dict(data_preprocessor=own)))
    )
    batch, seen = make_batch(size=48), {}
    for name in 'ab':
        model.network(name).backbone.register_forward_pre_hook(
            lambda m, args, name=name: seen.update({name: args[0]})
        )
    losses_of(model, batch)
    for name in 'ab':
        expected = model.network(name).data_preprocessor(copy.deepcopy(batch), True)['inputs']
        torch.testing.assert_close(seen[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'tap, message',
    [
        ('backbone.nothing', 'model.links'),
        ('decode_head.loss_decode', 'is not called as a module'),
        ('feature[1]', 'is not a sequence'),
    ],
)
def test_wrong_taps(toolkit, tap, message):
    with pytest.raises(ValueError, match=message):
        make(
            toolkit,
            members=members(teacher=False),
            links=[
                dict(source='student1', target='student2', tap=tap, loss=dict(type='FeatureMSE'))
            ],
        )


def test_a_head_without_conv_seg_is_read_by_what_it_returns(toolkit):
    model = make(toolkit, members=members(teacher=False))
    network = model.network('student1')
    network.decode_head.conv_seg = None
    path, reader = model.task.resolve_tap('prediction', network, 'x.tap')
    logits = torch.rand(1, 2, 4, 4)
    assert path == 'decode_head' and reader(network.decode_head, [logits + 1, logits]) is logits
    with pytest.raises(ValueError, match='x.tap: FCNHead has no layer .conv_seg. .* no 2 logits'):
        reader(network.decode_head, logits[:, :1])


def test_a_level_of_the_backbone_by_path(toolkit):
    model = make(toolkit, sharing=dict(type='kdml_f', feature_tap='backbone[0]'))
    shapes = {
        name: tuple(value.shape)
        for (name, _), value in model.read_taps(torch.zeros(1, 3, 64, 64), None).items()
    }
    assert shapes == dict(teacher=(1, 32, 8, 8), student1=(1, 16, 8, 8), student2=(1, 16, 8, 8))
    log = model.train_step(make_batch(), toolkit.optim_wrapper(model))
    assert all(torch.isfinite(value) for value in log.values())


def test_members_of_two_tasks_are_refused(toolkit):
    with pytest.raises(ValueError, match='all must be networks of one task'):
        make(toolkit, members=dict(a=unet(), b=toolkit.yolox()))


def test_members_of_other_channels_cannot_be_fused(toolkit):
    with pytest.raises(
        ValueError, match='model.ensemble.members: members differ in output channels'
    ):
        make(toolkit, members=dict(student1=unet(seed=1), student2=one_channel(seed=2)))


def test_members_that_ignore_other_labels_are_refused(toolkit):
    other = unet(options={'decode_head.ignore_index': 7}, seed=2)
    with pytest.raises(ValueError, match='model.members: members differ in ignore_index'):
        make(toolkit, members=dict(student1=unet(seed=1), student2=other))


# ---------------------------------------------------------------- other kinds of segmenters

RESNET18 = {
    'data_preprocessor': dict(PLAIN),
    'backbone.depth': 18,
    'backbone.init_cfg': None,
    'decode_head.in_channels': [64, 128, 256, 512],
    'decode_head.num_classes': 2,
    'decode_head.num_queries': 5,
}
MASK2FORMER = dict(
    config='mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py',
    options={
        **RESNET18,
        'backbone.norm_cfg.type': 'BN',
        'decode_head.loss_cls.class_weight': [1.0, 1.0, 0.1],
        'decode_head.pixel_decoder.encoder.num_layers': 1,
        'decode_head.transformer_decoder.num_layers': 1,
        'decode_head.train_cfg.num_points': 100,
    },
)
MASKFORMER = dict(
    config='mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py',
    options={
        **RESNET18,
        'backbone.norm_cfg.type': 'BN',
        'decode_head.loss_cls.class_weight': [1.0, 1.0, 0.1],
        'decode_head.transformer_decoder.num_layers': 1,
    },
)
PIDNET = dict(
    config='mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
    options={
        'data_preprocessor': dict(PLAIN),
        'backbone.init_cfg': None,
        'backbone.channels': 8,
        'backbone.ppm_channels': 8,
        'backbone.norm_cfg.type': 'BN',
        'decode_head.in_channels': 32,
        'decode_head.channels': 8,
        'decode_head.norm_cfg.type': 'BN',
        'decode_head.num_classes': 2,
        'decode_head.loss_decode.0.class_weight': None,
        'decode_head.loss_decode.1.class_weight': None,
        'decode_head.loss_decode.3.class_weight': None,
    },
)
_update = dict(
    num_classes=2,
    num_heads=2,
    feedforward_channels=16,
    in_channels=16,
    out_channels=16,
)
KNET = dict(
    config='mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py',
    options={
        'data_preprocessor': dict(PLAIN),
        'pretrained': None,
        'backbone.depth': 18,
        'backbone.base_channels': 8,
        'backbone.stem_channels': 8,
        'backbone.norm_cfg.type': 'BN',
        'decode_head.num_stages': 2,
        'decode_head.kernel_update_head': [
            dict(
                type='KernelUpdateHead',
                feat_transform_cfg=dict(conv_cfg=dict(type='Conv2d'), act_cfg=None),
                kernel_updator_cfg=dict(
                    type='KernelUpdator', in_channels=16, feat_channels=16, out_channels=16
                ),
                **_update,
            )
        ]
        * 2,
        'decode_head.kernel_generate_head.in_channels': 64,
        'decode_head.kernel_generate_head.channels': 16,
        'decode_head.kernel_generate_head.num_classes': 2,
        'decode_head.kernel_generate_head.norm_cfg.type': 'BN',
        'auxiliary_head': None,
    },
)
BISENET = dict(
    config='mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py',
    options={
        'data_preprocessor': dict(PLAIN),
        'backbone.norm_cfg.type': 'BN',
        'backbone.backbone_cfg.norm_cfg.type': 'BN',
        'backbone.out_channels': 32,
        'decode_head.in_channels': 32,
        'decode_head.channels': 8,
        'decode_head.norm_cfg.type': 'BN',
        'decode_head.num_classes': 2,
        'auxiliary_head.0.num_classes': 2,
        'auxiliary_head.0.norm_cfg.type': 'BN',
        'auxiliary_head.1.num_classes': 2,
        'auxiliary_head.1.norm_cfg.type': 'BN',
    },
)


def with_edges(batch):
    for sample in batch['data_samples']:
        sample.gt_edge_map = PixelData(data=torch.zeros_like(sample.gt_sem_seg.data))
    return batch


@pytest.mark.parametrize('member', [MASK2FORMER, MASKFORMER], ids=['mask2former', 'maskformer'])
def test_query_based_segmenters_train_and_are_measured(toolkit, member):
    """They have no threshold; their queries make the prediction together."""
    pair = dict(student1=dict(member, seed=1), student2=dict(member, seed=2))
    links = [
        dict(source='student1', target='student2', tap=tap) for tap in ('feature', 'prediction')
    ]
    model = make(toolkit, members=pair, links=links)
    terms = losses_of(model, make_batch())
    assert all(torch.isfinite(v).all() for v in terms.values() if isinstance(v, torch.Tensor))
    term = terms['student2/loss_kd[student1:prediction]']
    assert term > 0
    term.backward()
    assert all(p.grad is None for p in model.network('student1').parameters())
    assert model.network('student2').decode_head.query_embed.weight.grad.any()
    results = model.eval().predict_members(make_batch())
    assert list(results) == ['student1', 'student2', 'ensemble']
    assert results['ensemble'][0].pred_sem_seg.data.shape == (1, 64, 64)
    network, runs = model.network('student1').train(), []
    network.decode_head.register_forward_hook(lambda *args: runs.append(args))
    model.task.run_for_taps(network, torch.rand(2, 3, 64, 64), None, ['decode_head'])
    assert len(runs) == 1
    # The classes' scores of mmseg's own inference, divided by their sum.
    read = model.task.resolve_tap('prediction', network, 'x')[1](network.decode_head, runs[0][2])
    classes, masks = (layers[-1] for layers in runs[0][2])
    scores = torch.einsum('bqc,bqhw->bchw', classes.softmax(-1)[..., :-1], masks.sigmoid())
    torch.testing.assert_close(read.exp(), scores / scores.sum(1, keepdim=True))


def test_k_net_teaches_by_its_last_stage(toolkit):
    """Its head calls `forward` by name and has no layer of logits: no hook would see it."""
    pair = dict(student1=dict(KNET, seed=1), student2=dict(PIDNET, seed=2))
    model = make(toolkit, members=pair, sharing='ml_p')
    seen = []
    reader = model.members.taps['student1', 'prediction'].reader
    model.members.taps['student1', 'prediction'].reader = lambda head, output: (
        seen.append(output) or reader(head, output)
    )
    copied = copy.deepcopy(model)  # as EMAHook makes one
    terms = losses_of(model, with_edges(make_batch()))
    assert sum('[' in key and value > 0 for key, value in terms.items()) == 2
    assert len(seen) == 1 and len(seen[0]) == 3  # a stage before the two updates
    terms['student1/loss_ml[student2:prediction]'].backward()
    assert model.network('student1').decode_head.kernel_update_head[-1].fc_mask.weight.grad.any()
    head = copied.network('student1').decode_head
    assert head.forward.module is head and head.forward.inner.__self__ is head
    results = model.eval().predict_members(make_batch())
    assert results['student1'][0].pred_sem_seg.data.shape == (1, 64, 64)


def test_a_query_based_segmenter_and_a_network_with_branches_teach_each_other(toolkit):
    pair = dict(student1=dict(MASK2FORMER, seed=1), student2=dict(PIDNET, seed=2))
    model = make(toolkit, members=pair, sharing='ml_p')
    terms = losses_of(model, with_edges(make_batch()))
    assert sum('[' in key and value > 0 for key, value in terms.items()) == 2


@pytest.mark.parametrize('member', [PIDNET, BISENET], ids=['pidnet', 'bisenet'])
def test_the_feature_of_networks_with_branches_is_the_decoded_map_in_both_modes(toolkit, member):
    """In training their backbones give the auxiliary heads' maps as well."""
    model = make(toolkit, members=dict(student1=dict(member, seed=1)))
    network = model.network('student1').double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    path, reader = model.task.resolve_tap('feature', network, 'x')
    inputs = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    values = {}
    network.get_submodule(path).register_forward_hook(
        lambda module, args, output: values.update({module.training: reader(module, output)})
    )
    for training in (True, False):
        network.train(training)
        model.task.run_for_taps(network, inputs, None, [path])
    torch.testing.assert_close(values[True], values[False])
    assert values[True].shape[1] == 32


def test_members_with_branches_distill_features_and_predictions(toolkit):
    pair = dict(student1=dict(PIDNET, seed=1), student2=dict(PIDNET, seed=2))
    model = make(toolkit, members=pair, sharing='ml_mixed')
    log = model.train_step(with_edges(make_batch()), toolkit.optim_wrapper(model))
    assert len(links_of(log)) == 2
    assert all(torch.isfinite(value) for value in log.values())
    loss = dict(type='PearsonFeature')
    link = dict(source='student1', target='student2', tap='backbone', loss=loss)
    model = make(toolkit, members=pair, sharing='individual', links=[link])
    with pytest.raises(ValueError, match=r'links\[0\]: the taps give other channels or levels in'):
        model.train_step(with_edges(make_batch()), toolkit.optim_wrapper(model))


@pytest.mark.parametrize('kind', ['unet', 'cascade', 'auxiliary', 'bisenet'])
@pytest.mark.parametrize('training', [True, False])
def test_unlabeled_images_run_through_the_tapped_modules(toolkit, kind, training):
    paths = {
        'unet': ['decode_head.conv_seg', 'backbone'],
        'cascade': ['decode_head.1.conv_seg'],
        'auxiliary': ['auxiliary_head.conv_seg'],
        'bisenet': ['auxiliary_head.1.conv_seg', 'decode_head.conv_seg'],
    }[kind]
    member = {
        'unet': unet(),
        'cascade': cascade(),
        'auxiliary': unet(options={'auxiliary_head': fcn()}),
        'bisenet': BISENET,
    }[kind]
    model = make(toolkit, members=dict(student1=member))
    network, outputs = model.network('student1').train(training), {}
    for path in paths:
        network.get_submodule(path).register_forward_hook(
            lambda m, a, out, path=path: outputs.setdefault(path, []).append(out)
        )
    model.task.run_for_taps(network, torch.rand(2, 3, 64, 64), None, paths)
    assert {path: len(runs) for path, runs in outputs.items()} == dict.fromkeys(paths, 1)
    outputs[paths[0]][0].sum().backward()
    assert any(p.grad is not None for p in network.backbone.parameters())
    assert model.task.valid_mask(None) is None


def test_logits_for_taps_are_not_resized_to_the_image(toolkit, monkeypatch):
    model = make(toolkit, members=members(teacher=False))
    network = model.network('student1')
    monkeypatch.setattr(network.decode_head, 'predict_by_feat', None)
    model.task.run_for_taps(
        network.eval(), torch.rand(1, 3, 64, 64), None, ['decode_head.conv_seg']
    )


def test_the_classes_of_scores_are_found_quickly_and_are_the_same():
    from mmkd.tasks.segmentation.argmax import QuickArgmax

    scores = torch.randn(3, 20, 30).round()  # ties, whose first counts
    scores[0, 0, 0] = scores[1:, 1, 1] = math.nan
    with QuickArgmax():
        found = scores.argmax(dim=0, keepdim=True), scores.argmax(dim=0), scores.argmax(1)
        whole = scores[:, 2:].argmax()
    for one, other in zip(found, (scores.argmax(0, keepdim=True), scores.argmax(0))):
        assert one.dtype == torch.long and torch.equal(one, other)
    assert torch.equal(found[2], scores.argmax(1)) and whole == scores[:, 2:].argmax()
