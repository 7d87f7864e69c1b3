import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from mmkd.engine.hooks import MemberHook
from mmkd.models.distillers.member_spec import MemberSpec
from mmkd.models.distillers.preprocessing import shared_preprocessor_config
from mmkd.models.distillers.tap import moved
from mmkd.utils.errors import ConfigError


def solo_weights(toolkit, options, seed, batches, optimizer, dropout=False):
    """Weights of the same network trained alone by plain mmdet with the same seed and batches."""
    import mmdet
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper

    cfg = Config.fromfile(f'{mmdet.__path__[0]}/.mim/configs/yolox/yolox_tiny_8xb8-300e_coco.py')
    cfg.merge_from_dict({f'model.{k}': v for k, v in options.items()})
    cfg.model.data_preprocessor = dict(toolkit.PLAIN)
    torch.manual_seed(seed)
    network = MODELS.build(cfg.model)
    network.init_weights()
    if dropout:
        network.backbone.stem.add_module('noise', torch.nn.Dropout(0.2))
    network.train()
    wrapper = build_optim_wrapper(network, dict(optimizer=optimizer, clip_grad=dict(max_norm=5)))
    for batch in copy.deepcopy(batches):
        network.train_step(batch, wrapper)
    return network.state_dict()


@pytest.mark.parametrize(
    'optimizer', [dict(type='SGD', lr=0.01, momentum=0.9), dict(type='AdamW', lr=0.001)]
)
def test_zero_sharing_equals_solo_training_bit_for_bit(toolkit, optimizer):
    batches = [toolkit.make_batch(seed=i) for i in range(4)]
    model = toolkit.make_distiller(sharing='individual')
    wrapper = toolkit.optim_wrapper(model, optimizer=optimizer, clip_grad=dict(max_norm=5))
    for batch in copy.deepcopy(batches):
        model.train_step(batch, wrapper)
    for name, options, seed in (
        ('teacher', toolkit.WIDER, 10),
        ('student1', toolkit.NARROW, 1),
        ('student2', toolkit.NARROW, 2),
    ):
        alone = solo_weights(toolkit, options, seed, batches, optimizer)
        own = model.network(name).state_dict()
        assert own.keys() == alone.keys()
        assert all(torch.equal(own[k], alone[k]) for k in alone), name


def test_members_with_dropout_keep_to_their_own_random_streams(toolkit):
    batches = [toolkit.make_batch(seed=i) for i in range(3)]
    optimizer = dict(type='SGD', lr=0.01)
    model = toolkit.make_distiller(sharing='individual')
    for name in ('student1', 'student2'):
        model.network(name).backbone.stem.add_module('noise', torch.nn.Dropout(0.2))
    model.train()
    wrapper = toolkit.optim_wrapper(model, optimizer=optimizer, clip_grad=dict(max_norm=5))
    before = torch.get_rng_state()
    for batch in copy.deepcopy(batches):
        model.train_step(batch, wrapper)
    assert torch.equal(before, torch.get_rng_state())
    alone = solo_weights(toolkit, toolkit.NARROW, 2, batches, optimizer, dropout=True)
    own = model.network('student2').state_dict()
    assert all(torch.equal(own[k], alone[k]) for k in alone)


def test_the_control_is_sensitive(toolkit):
    """With sharing the students' weights are not those of solo training; the teacher's are."""
    batches = [toolkit.make_batch(seed=i) for i in range(3)]
    results = {}
    for sharing in ('individual', 'kdml_p'):
        model = toolkit.make_distiller(sharing=sharing)
        wrapper = toolkit.optim_wrapper(model)
        for batch in copy.deepcopy(batches):
            model.train_step(batch, wrapper)
        results[sharing] = {n: model.network(n).state_dict() for n in ('teacher', 'student1')}
    same = {
        n: all(torch.equal(results['individual'][n][k], v) for k, v in results['kdml_p'][n].items())
        for n in ('teacher', 'student1')
    }
    assert same == dict(teacher=True, student1=False)


def losses_of(model, batch):
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    return model(**data, mode='loss')


def test_nothing_flows_into_a_source(toolkit):
    model = toolkit.make_distiller(sharing='kdml_mixed_full')
    terms = losses_of(model, toolkit.make_batch())
    links = {k: v for k, v in terms.items() if '/loss_' in k and '[' in k}
    assert len(links) == 6 and all(v > 0 for v in links.values())
    for key, value in links.items():
        model.zero_grad()
        value.backward(retain_graph=True)
        target = key.split('/')[0]
        touched = {
            n
            for n in model.specs
            if any(
                p.grad is not None and p.grad.abs().sum() > 0 for p in model.network(n).parameters()
            )
        }
        assert touched == {target}, key


def test_detach_false_reaches_the_source(toolkit):
    model = toolkit.make_distiller(
        links=[dict(source='student1', target='student2', tap='feature', detach=False)]
    )
    losses_of(model, toolkit.make_batch())['student2/loss_kd[student1:feature]'].backward()
    assert any(
        p.grad is not None and p.grad.abs().sum() > 0
        for p in model.network('student1').parameters()
    )


def test_each_member_runs_once_a_step(toolkit):
    model = toolkit.make_distiller(members=toolkit.members(students=3), sharing='kdml_mixed_full')
    calls = dict.fromkeys(model.specs, 0)
    for name in model.specs:

        def count(module, args, output, name=name):
            calls[name] += 1

        model.network(name).backbone.register_forward_hook(count)
    reads = DeviceReads()
    forward = model.links.forward

    def watched(*args):
        with reads:
            return forward(*args)

    model.links.forward = watched
    losses_of(model, toolkit.make_batch())
    assert calls == dict.fromkeys(model.specs, 1)
    # Whether all terms are finite and no loss is negative is one wait for the device; the first
    # step also measures seven links, one wait in all (a list for each is made on the CPU).
    measured = sum(link.rule is not None for link in model.links)
    assert len(model.links) == 15 and measured == 7 and reads.count == 2 + measured
    MessageHub.get_current_instance().update_info('iter', 1)
    reads.count = 0
    losses_of(model, toolkit.make_batch())
    assert reads.count == 1


class DeviceReads(TorchDispatchMode):
    """Counts the operations that wait for a device: those that read a value or depend on one."""

    waiting = ('_local_scalar_dense', 'nonzero', 'masked_select', 'is_nonzero', 'unique')

    def __init__(self):
        super().__init__()
        self.count = 0

    def __enter__(self):
        self.tolist = tolist = torch.Tensor.tolist  # it is not dispatched

        def counted(tensor):
            self.count += 1
            return tolist(tensor)

        torch.Tensor.tolist = counted
        return super().__enter__()

    def __exit__(self, *args):
        torch.Tensor.tolist = self.tolist
        return super().__exit__(*args)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += any(f'aten.{name}' in str(function) for name in self.waiting)
        return function(*args, **(kwargs or {}))


def save_plain(model, name, path):
    torch.save(dict(state_dict=model.network(name).state_dict()), path)
    return str(path)


def test_frozen_member(toolkit, tmp_path):
    path = save_plain(toolkit.make_distiller(), 'teacher', tmp_path / 'teacher.pth')
    frozen = toolkit.yolox(options=toolkit.WIDER, training='frozen', checkpoint=path)
    model = toolkit.make_distiller(
        members=toolkit.members(teacher=frozen),
        sharing=dict(type='kd_p', schedule=dict(type='Until', end=0.5)),
    )
    assert not any('teacher' in key for key in model.state_dict())
    assert not any(p.requires_grad for p in model.network('teacher').parameters())
    before = copy.deepcopy(model.network('teacher').state_dict())
    wrapper = toolkit.optim_wrapper(model)
    assert 'teacher' not in wrapper
    calls = []
    model.network('teacher').backbone.register_forward_hook(lambda *_: calls.append(1))
    model.progress = 0.4
    model.train_step(toolkit.make_batch(), wrapper)
    assert not model.network('teacher').training and len(calls) == 1
    assert all(torch.equal(v, before[k]) for k, v in model.network('teacher').state_dict().items())
    model.progress = 0.6  # its last link has ended: no longer run
    log = model.train_step(toolkit.make_batch(), wrapper)
    assert len(calls) == 1 and log['student1/loss_kd[teacher:prediction]'] == 0
    assert copy.deepcopy(model).network('teacher') is model.network('teacher')


def test_frozen_member_loads_strictly(toolkit, tmp_path):
    path = save_plain(toolkit.make_distiller(), 'student1', tmp_path / 'student1.pth')
    with pytest.raises(ValueError, match='model.members.teacher.checkpoint: .* does not fit'):
        toolkit.make_distiller(
            members=toolkit.members(
                teacher=toolkit.yolox(options=toolkit.WIDER, training='frozen', checkpoint=path)
            )
        )


def test_options_are_left_as_they_are(toolkit):
    """A config is resolved again and again: by the tools' checks, then by the model."""
    options = dict(neck=dict(_delete_=True, type='YOLOXPAFPN', in_channels=[8], out_channels=8))
    cfg = ConfigDict(toolkit.yolox(options=options))
    first, second = (MemberSpec.from_config('a', cfg).config for _ in range(2))
    assert first == second and set(first.neck) == set(options['neck']) - {'_delete_'}


def test_start_from_a_checkpoint_with_another_class_count(toolkit, tmp_path):
    path = save_plain(toolkit.make_distiller(), 'student1', tmp_path / 'one_class.pth')
    start = torch.load(path, weights_only=True)['state_dict']
    options = dict(toolkit.NARROW, **{'bbox_head.num_classes': 3})
    model = toolkit.make_distiller(
        members=dict(
            student1=toolkit.yolox(options=options, checkpoint=path),
            student2=toolkit.yolox(options=options),
        )
    )
    own = model.network('student1').state_dict()
    unequal = {
        k for k in start if own[k].shape != start[k].shape or not torch.equal(own[k], start[k])
    }
    assert unequal and all('multi_level_conv_cls' in key for key in unequal)


def test_ema_member(toolkit):
    model = toolkit.make_distiller(
        members=toolkit.members(mean=dict(training='ema', of='student1', momentum=0.25)),
        links=[dict(source='mean', target='student1')],
    )
    mean, student = model.network('mean'), model.network('student1')
    wrapper = toolkit.optim_wrapper(model)
    assert 'mean' not in wrapper

    def values(network):
        return {key: value.clone() for key, value in network.state_dict().items()}

    # A plain mean of the first four steps, then the momentum; running statistics likewise.
    expected = values(mean)
    for iteration, share in enumerate((1, 1 / 2, 1 / 3, 1 / 4, 1 / 4, 1 / 4)):
        MessageHub.get_current_instance().update_info('iter', iteration)
        model.train_step(toolkit.make_batch(seed=iteration), wrapper)
        model.update_ema_members()
        for key, new in values(student).items():
            old = expected[key]
            expected[key] = (1 - share) * old + share * new if new.is_floating_point() else new
        for key, value in mean.state_dict().items():
            torch.testing.assert_close(value, expected[key], msg=lambda m, key=key: f'{key}: {m}')
    assert not torch.equal(
        mean.backbone.stem.conv.bn.running_mean, student.backbone.stem.conv.bn.running_mean
    )
    assert not mean.training and any(key.startswith('members.mean.') for key in model.state_dict())
    model.train_step(toolkit.make_batch(), wrapper)
    with pytest.raises(ConfigError, match='mmkd.MemberHook'):
        model.train_step(toolkit.make_batch(), wrapper)


@pytest.mark.parametrize('accumulated', [1, 3])
def test_an_average_counts_the_optimizers_steps(toolkit, accumulated):
    """Its initial weights are gone after the first one."""
    members = toolkit.members(students=1, mean=dict(training='ema', of='student1', momentum=0.01))
    model = toolkit.make_distiller(members=members, sharing=None)
    wrapper = toolkit.optim_wrapper(model, accumulative_counts=accumulated)
    wrapper.initialize_count_status(model, 0, 100)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    for iteration in range(accumulated):
        MessageHub.get_current_instance().update_info('iter', iteration)
        model.train_step(toolkit.make_batch(), wrapper)
        MemberHook().after_train_iter(runner, iteration)
    pairs = zip(model.network('mean').parameters(), model.network('student1').parameters())
    assert all(torch.equal(mean, own) for mean, own in pairs)


def test_identical_networks_start_differently(toolkit):
    model = toolkit.make_distiller(members=dict(a=toolkit.yolox(), b=toolkit.yolox()))
    pairs = list(zip(model.network('a').parameters(), model.network('b').parameters()))
    assert not all(torch.equal(a, b) for a, b in pairs)
    torch.manual_seed(0)
    again = toolkit.make_distiller(members=dict(a=toolkit.yolox(), b=toolkit.yolox()))
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.network('b').parameters(), again.network('b').parameters())
    )


def test_the_shared_padding_serves_all_members():
    def shared(*own):
        configs = {f'm{i}': dict(data_preprocessor=dict(type='X', **p)) for i, p in enumerate(own)}
        return shared_preprocessor_config(configs)

    assert shared({}, dict(pad_size_divisor=32), dict(pad_size_divisor=12)).pad_size_divisor == 96
    assert shared(dict(size=[64, 64]), dict(size=(64, 64))).size == [64, 64]
    found = shared({}, dict(size_divisor=16, test_cfg=dict(size_divisor=16)))
    assert found.size_divisor == found.test_cfg.size_divisor == 16
    message = r'model.data_preprocessor: must be given, .* in size, .*: m0 \(64, 64\), m1 None'
    with pytest.raises(ConfigError, match=message):
        shared(dict(size=(64, 64)), dict(size_divisor=16))
    with pytest.raises(ConfigError, match='they differ in test_cfg.size'):
        shared(dict(test_cfg=dict(size=(64, 64))), {})


def test_the_first_member_that_has_a_preprocessor_gives_the_shared_one():
    own = dict(type='ClsDataPreprocessor', mean=[1.0] * 3)
    configs = dict(a=dict(_scope_='other'), b=dict(_scope_='mmpretrain', data_preprocessor=own))
    assert shared_preprocessor_config(configs) == dict(own, _scope_='mmpretrain')
    given = shared_preprocessor_config(configs, dict(num_classes=3))
    assert given == dict(type='ClsDataPreprocessor', _scope_='mmpretrain', num_classes=3)
    assert shared_preprocessor_config(dict(a={})) == dict(type='BaseDataPreprocessor')


@pytest.mark.parametrize('kind', ['TimmClassifier', 'mmpretrain.HuggingFaceClassifier'])
def test_classifiers_of_other_libraries_have_mmpretrains_preprocessor(kind):
    mean = dict(mean=[1.0] * 3)
    config = dict(type=kind, data_preprocessor=mean, train_cfg=dict(augments=dict(type='Mixup')))
    found = MemberSpec('a', config).config.data_preprocessor
    kind = dict(type='ClsDataPreprocessor')
    assert found == dict(mean, **kind, batch_augments=config['train_cfg'])
    assert MemberSpec('a', dict(config, train_cfg={})).config.data_preprocessor == dict(
        mean, **kind
    )


def test_members_with_their_own_normalisation_see_their_own_inputs(toolkit):
    own = dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_value=7,
        batch_augments=None,
    )
    same = toolkit.yolox(options=dict(toolkit.NARROW, data_preprocessor=own))
    other = toolkit.yolox(options=dict(toolkit.NARROW, data_preprocessor=dict(own, pad_value=9)))
    model = toolkit.make_distiller(members=dict(a=toolkit.yolox(), b=same, c=same, d=other))
    batch = toolkit.make_batch(size=56)  # padded to 64
    seen = {}
    for name in 'abcd':
        model.network(name).backbone.register_forward_pre_hook(
            lambda m, args, name=name: seen.update({name: args[0]})
        )
    losses_of(model, batch)
    for name in 'abcd':
        alone = model.network(name).data_preprocessor if name != 'a' else model.data_preprocessor
        torch.testing.assert_close(
            seen[name], alone(copy.deepcopy(batch), True)['inputs'], rtol=1e-5, atol=1e-5
        )
    assert seen['b'].data_ptr() == seen['c'].data_ptr()  # made once
    with torch.inference_mode():  # whose tensors do not tell of changes
        losses_of(model, batch)
    torch.testing.assert_close(seen['b'], seen['c'])


def test_a_member_without_preprocessing_of_its_own_sees_the_shared_images(toolkit):
    shared = dict(
        toolkit.PLAIN, mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True
    )
    plain = toolkit.yolox(options=dict(toolkit.NARROW, data_preprocessor=None))
    members = dict(a=plain, a_ema=dict(training='ema', of='a'))
    model = toolkit.make_distiller(members=members, data_preprocessor=shared)
    assert not model.members.renormalize
    seen = []
    model.network('a').backbone.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    batch = toolkit.make_batch()
    losses_of(model, batch)
    assert torch.equal(seen[0], model.data_preprocessor(copy.deepcopy(batch), True)['inputs'])


def test_multi_scale_size_is_drawn_once_for_all(toolkit):
    from mmengine.logging import MessageHub

    augment = dict(
        type='BatchSyncRandomResize', random_size_range=(64, 160), size_divisor=32, interval=1
    )
    model = toolkit.make_distiller(
        data_preprocessor=dict(toolkit.PLAIN, batch_augments=[augment]), sharing='kdml_p'
    )
    sizes = {name: [] for name in model.specs}
    for name in model.specs:
        model.network(name).backbone.register_forward_pre_hook(
            lambda m, args, name=name: sizes[name].append(args[0].shape[-1])
        )
    for i in range(6):
        MessageHub.get_current_instance().update_info('iter', i)
        losses_of(model, toolkit.make_batch())
    assert (
        sizes['teacher'] == sizes['student1'] == sizes['student2']
        and len(set(sizes['teacher'])) > 1
    )


def test_copies_record_for_themselves(toolkit):
    model = toolkit.make_distiller(sharing='kdml_mixed_full')
    batch = toolkit.make_batch()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(losses_of(twin, batch), losses_of(model, batch))
    for one, other in zip(model.members.taps.values(), twin.members.taps.values()):
        assert (
            one.recorder is not other.recorder
            and not one.recorder.outputs
            and not other.recorder.outputs
        )


def test_heterogeneous_pair_rtmdet_teaches_yolox(toolkit):
    options = {
        'backbone.widen_factor': 0.125,
        'backbone.init_cfg': None,
        'neck.in_channels': [32, 64, 128],
        'neck.out_channels': 32,
        'bbox_head.in_channels': 32,
        'bbox_head.feat_channels': 32,
        'bbox_head.num_classes': 1,
        'backbone.norm_cfg': dict(type='BN'),
        'neck.norm_cfg': dict(type='BN'),
        'bbox_head.norm_cfg': dict(type='BN'),
    }
    model = toolkit.make_distiller(
        members=toolkit.members(teacher=dict(config=toolkit.RTMDET, options=options)),
        sharing='kdml_mixed_full',
    )
    log = model.train_step(toolkit.make_batch(), toolkit.optim_wrapper(model))
    assert (
        all(torch.isfinite(v) for v in log.values())
        and log['student1/loss_kd[teacher:prediction]'] > 0
    )


def test_predict_members_runs_each_network_once_and_fuses(toolkit):
    model = toolkit.make_distiller(sharing='kdml_p').eval()
    calls = []
    for name in model.specs:
        model.network(name).backbone.register_forward_hook(lambda *_, name=name: calls.append(name))
    batch = toolkit.make_batch()
    results = model.predict_members(copy.deepcopy(batch))
    assert list(results) == ['teacher', 'student1', 'student2', 'ensemble']
    assert sorted(calls) == ['student1', 'student2', 'teacher']
    fused = model.test_step(copy.deepcopy(batch))
    for one, other in zip(fused, results['ensemble']):
        assert torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)
    assert results['student1'][0].pred_instances is not results['student2'][0].pred_instances


@pytest.mark.parametrize(
    'preset',
    [
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
    ],
)
def test_every_preset_trains(toolkit, preset):
    model = toolkit.make_distiller(sharing=dict(type=preset, tau=2.0))
    wrapper = toolkit.optim_wrapper(model)
    for i in range(2):
        log = model.train_step(toolkit.make_batch(seed=i), wrapper)
    assert all(torch.isfinite(v) for v in log.values()), log


def test_masks_that_a_network_makes_later_are_not_moved_between_devices():
    """Moved without what makes them, they would meet tensors of another device."""
    from mmkd.tasks.detection.structures import DensePrediction

    plain = DensePrediction(torch.zeros(1, 2, 1), None, torch.zeros(1, 2, 4))
    assert moved(plain, torch.device('cpu')).cls_logits.shape == (1, 2, 1)
    drawing = DensePrediction(plain.cls_logits, None, plain.boxes, masks=lambda *_: None)
    with pytest.raises(ConfigError, match='a DensePrediction cannot be moved between devices'):
        moved(drawing, torch.device('cpu'))


def test_a_device_of_its_own_changes_nothing(toolkit, tmp_path, monkeypatch):
    """Named though there is one alone: images, taps and predictions take the way of two."""
    moves = []

    def spy(value, device):
        moves.append(device)
        return moved(value, device)

    monkeypatch.setattr('mmkd.models.distillers.members.moved', spy)
    teacher = toolkit.make_distiller(members=toolkit.members(students=0)).network('teacher')
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    frozen = toolkit.yolox(
        options=toolkit.WIDER, training='frozen', checkpoint=str(tmp_path / 'teacher.pth')
    )
    terms, boxes = [], []
    for device in (None, 'cpu'):
        members = toolkit.members(teacher=dict(frozen, device=device))
        model = toolkit.make_distiller(members=members, sharing='kdml_mixed_full')
        terms.append(losses_of(model, toolkit.make_batch()))
        assert bool(moves) == (device is not None)
        found = model.eval().predict_members(toolkit.make_batch())
        boxes.append([sample.pred_instances.bboxes for sample in found['ensemble']])
    assert set(moves) == {torch.device('cpu')}
    assert terms[0].keys() == terms[1].keys()
    for key, value in terms[0].items():
        torch.testing.assert_close(terms[1][key], value, rtol=0, atol=0, msg=key)
    for one, other in zip(*boxes, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_training_step_in_bfloat16_on_cpu(toolkit):
    model = toolkit.make_distiller(sharing='kdml_mixed_full')
    wrapper = toolkit.optim_wrapper(model, type='AmpOptimWrapper', dtype='bfloat16')
    log = model.train_step(toolkit.make_batch(), wrapper)
    assert all(torch.isfinite(v) for v in log.values())
    assert log['student1/loss_ml[student2:prediction]'].dtype == torch.float32


def test_channels_last_changes_the_memory_format_alone(toolkit):
    batch = toolkit.make_batch()
    plain = toolkit.make_distiller(sharing='kdml_mixed_full').train()
    moved = toolkit.make_distiller(sharing='kdml_mixed_full', channels_last=True).train()
    start = plain.state_dict()
    for key, value in moved.state_dict().items():
        assert torch.equal(value, start[key]), key
    seen = []
    moved.network('student1').backbone.stem.register_forward_hook(
        lambda module, args, output: seen.append(output)
    )
    ours, theirs = (
        model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
        for model in (moved, plain)
    )
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert all(
        weight.is_contiguous(memory_format=torch.channels_last)
        for weight in moved.parameters()
        if weight.dim() == 4
    )
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        values, expected = (v if isinstance(v, list) else [v] for v in (value, theirs[key]))
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-5)
