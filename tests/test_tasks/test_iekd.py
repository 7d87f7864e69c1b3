"""IE-KD and student-centric learning on networks of each task: training, resuming, export."""

import copy
import itertools
import os
import re
import signal
import subprocess
import sys

import numpy
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
import conftest  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from mmkd.engine.hooks import FactorPretrainHook  # noqa: E402

pytestmark = pytest.mark.usefixtures('unformatted_configs')
COUNTER = itertools.count()
CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
PLAIN = dict(
    type='ClsDataPreprocessor', mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], to_rgb=True
)


def ie(source, target, tap='feature', joint=True, split=None, **loss):
    return dict(
        source=source,
        target=target,
        tap=tap,
        name='ie',
        loss=dict(type='InheritExploreLoss', **loss),
        connector=dict(type='InheritExplore', **(split or {})),
        source_connector=dict(type='FactorAutoEncoder', joint=joint),
    )


def correlations(source, target, tap='feature', split=True):
    guided = [dict(type='ChannelSplit', ratio=0.75)] if split else []
    return [
        dict(
            source=source,
            target=target,
            tap=tap,
            name='channel',
            loss=dict(type='ChannelCorrelation'),
            connector=[*guided, dict(type='ConvConnector')],
        ),
        dict(
            source=source,
            target=target,
            tap=tap,
            name='spatial',
            loss=dict(type='SpatialCorrelation'),
            connector=guided or 'auto',
        ),
    ]


def cifar(width=4, **kwargs):
    options = {
        'data_preprocessor': dict(PLAIN),
        'backbone.base_channels': width,
        'backbone.stem_channels': width,
        'head.in_channels': 8 * width,
        'head.num_classes': 3,
        'head.topk': (1,),
    }
    return dict(dict(config=CIFAR, options=options), **kwargs)


def classification(toolkit, teacher=True, **kwargs):
    DefaultScope.get_instance(f'ie-{next(COUNTER)}', scope_name='mmpretrain')
    members = (
        dict(teacher=cifar(8, seed=10))
        if teacher is True
        else dict(teacher=teacher)
        if teacher
        else {}
    )
    members.update(student1=cifar(seed=1), student2=cifar(seed=2))
    return toolkit.make_distiller(
        members=members, data_preprocessor=dict(PLAIN, _scope_='mmpretrain'), **kwargs
    )


def labelled(n=4, size=32, seed=0, classes=3):
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(seed)
    inputs = [
        torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        for _ in range(n)
    ]
    samples = [
        DataSample(
            metainfo=dict(img_shape=(size, size), ori_shape=(size, size), num_classes=classes)
        ).set_gt_label(torch.randint(0, classes, (1,), generator=generator))
        for _ in range(n)
    ]
    return dict(inputs=inputs, data_samples=samples)


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def check_steps(toolkit, model, batches):
    before = copy.deepcopy(model.state_dict())
    wrapper = toolkit.optim_wrapper(model)
    for batch in batches:
        log = model.train_step(copy.deepcopy(batch), wrapper)
        assert all(torch.isfinite(value) for value in log.values()), log
    assert all(key in log for link in model.links for key in link.terms)
    after = model.state_dict()
    still = [
        key
        for key, _ in model.link_modules.named_parameters()
        if torch.equal(before[f'link_modules.{key}'], after[f'link_modules.{key}'])
    ]
    # A norm's factors change no correlation, which is of normalized rows or standardized maps.
    assert not [key for key in still if not key.endswith('conv.bn.weight')]
    return log


@pytest.mark.parametrize('sharing', ['individual', 'kd_p', 'kdml_p', 'kdml_mixed_complement'])
def test_classification_with_presets(toolkit, sharing):
    links = [
        ie('teacher', 'student1', tap='backbone.layer3', split=dict(mode='random', ratio=0.25)),
        *correlations('teacher', 'student2', tap='backbone.layer3'),
    ]
    model = classification(toolkit, sharing=sharing, links=links)
    log = check_steps(toolkit, model, [labelled(seed=i) for i in range(3)])
    for term in ('inherit', 'explore'):
        assert log[f'student1/loss_ie_{term}[teacher:backbone.layer3]'] > 0
    assert log['student1/loss_ie_reconstruction[teacher:backbone.layer3]'] > 0
    assert log['student2/loss_channel[teacher:backbone.layer3]'] > 0
    assert log['student2/loss_spatial[teacher:backbone.layer3]'] > 0


@pytest.mark.parametrize('explore', ['ft', 'cos', 'cka'])
def test_detection_on_one_level_of_the_neck(toolkit, explore):
    links = [
        ie('teacher', 'student1', 'feature[1]', explore=explore),
        *correlations('teacher', 'student2', 'feature[1]'),
    ]
    check_steps(
        toolkit,
        toolkit.make_distiller(sharing='kdml_p', links=links),
        [toolkit.make_batch(seed=i) for i in range(2)],
    )


def test_segmentation(toolkit, data, tmp_path):
    cfg = Config.fromfile(conftest.ROOT / 'configs/mmkd/iekd_polyp_unet_demo.py')
    DefaultScope.get_instance(f'ie-{next(COUNTER)}', scope_name='mmseg')
    cfg.model.links += correlations('teacher', 'student1', 'backbone[2]')
    model = MODELS.build(cfg.model)
    model.init_weights()
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = f'{data}/'
    loader = Runner.build_dataloader(dict(cfg.train_dataloader, batch_size=4), seed=0)
    log = check_steps(toolkit, model.train(), itertools.islice(loader, 2))
    assert {
        'student1/loss_ie_inherit[teacher:feature]',
        'student1/loss_spatial[teacher:backbone[2]]',
    } <= set(log)


def test_two_peers_inherit_from_and_explore_away_from_each_other(toolkit):
    """Both are split, each one's factor is the other's detached source, beside mutual learning."""
    model = classification(
        toolkit,
        teacher=False,
        sharing='ml_p',
        links=[ie('student1', 'student2'), ie('student2', 'student1')],
    )
    terms = losses_of(model, labelled())
    for target, source in (('student1', 'student2'), ('student2', 'student1')):
        own = [
            f'{target}/loss_ie_{key}[{source}:feature]'
            for key in ('inherit', 'explore', 'reconstruction')
        ]
        assert f'{target}/loss_ml[{source}:prediction]' in terms
        for key in own:
            model.zero_grad()
            terms[key].backward(retain_graph=True)
            reached = {
                name
                for name in model.evaluated[:-1]
                if any(
                    p.grad is not None and p.grad.any() for p in model.network(name).parameters()
                )
            }
            assert reached == (set() if 'reconstruction' in key else {target}), key
    check_steps(toolkit, model, [labelled(seed=i) for i in range(2)])


def test_no_gradient_of_the_guidance_reaches_self_taught_channels(toolkit):
    """Exactly zero at the guided layer's last quarter, which the network's own loss does train."""
    model = classification(toolkit, links=correlations('teacher', 'student1'))
    seen = []
    model.network('student1').backbone.layer4.register_forward_hook(
        lambda module, args, output: (output.retain_grad(), seen.append(output))[0]
    )
    terms = losses_of(model, labelled())
    guidance = [terms[link.terms[0]] for link in model.links]
    sum(guidance).backward(retain_graph=True)
    assert seen[0].grad[:, :24].any() and not seen[0].grad[:, 24:].any()
    terms['student1/loss_task'].backward()
    assert seen[0].grad[:, 24:].any()


def test_bfloat16_on_cpu(toolkit):
    model = classification(
        toolkit,
        links=[ie('teacher', 'student1', explore='cka'), *correlations('teacher', 'student2')],
    )
    wrapper = toolkit.optim_wrapper(model, type='AmpOptimWrapper', dtype='bfloat16')
    log = model.train_step(labelled(), wrapper)
    links = {key: value for key, value in log.items() if '[' in key}
    assert len(links) == 5 and all(
        torch.isfinite(v) and v.dtype == torch.float32 for v in links.values()
    ), links


def test_an_auto_encoder_to_be_trained_before_needs_a_frozen_source(toolkit):
    with pytest.raises(
        ValueError,
        match=r'links\[0\].source_connector: FactorAutoEncoder is trained before .* but '
        "'teacher' is not frozen: set joint=True",
    ):
        classification(toolkit, links=[ie('teacher', 'student1', joint=False)])


@pytest.mark.parametrize(
    'change, message',
    [
        (
            dict(connector='auto'),
            r'links\[0\]: the loss cannot compare student1.feature .*expected factors',
        ),
        (
            dict(connector=dict(type='InheritExplore', ratio=2)),
            r'links\[0\].connector: ratio: expected a number in \(0, 1\), got 2',
        ),
        (
            dict(loss=dict(type='InheritExploreLoss', explore='cosine')),
            r"links\[0\].loss: explore: unknown name 'cosine'",
        ),
        (dict(tap='neck'), r'links\[0\].source_connector: .*factors are of maps'),
        (
            dict(loss=dict(type='ChannelCorrelation'), connector=None, source_connector=None),
            'maps with the same number of channels are compared',
        ),
        (
            dict(
                loss=dict(type='ChannelCorrelation'),
                connector=[dict(type='ChannelSplit', part='guided')],
                source_connector=None,
            ),
            r"connector\[0\]: part: unknown name 'guided'",
        ),
    ],
)
def test_wrong_configs(toolkit, change, message):
    with pytest.raises(ValueError, match=message):
        classification(toolkit, links=[dict(ie('teacher', 'student1'), **change)])


# ---------------------------------------------------------------- a Runner


def small(data, work_dir, teacher, **changes):
    """Two epochs of three steps on 32 px: IE-KD from a frozen teacher, correlations beside it."""
    cfg = Config.fromfile(conftest.ROOT / 'configs/mmkd/msi_resnet_kdml_demo.py')
    for name in ('train_dataloader', 'val_dataloader'):
        cfg[name].dataset = cfg[name].dataset.get(
            'dataset', cfg[name].dataset
        )  # without what balances the classes
        cfg[name].batch_size = 4
        cfg[name].dataset.data_root = f'{data}/'
        for step in cfg[name].dataset.pipeline:
            if step.type == 'Resize':
                step.scale = 32
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    for name, width in (('teacher', 8), ('student1', 4)):
        cfg.model.members[name].options.update(
            {
                'backbone.base_channels': width,
                'backbone.stem_channels': width,
                'head.in_channels': 8 * width,
            }
        )
    cfg.model.members.teacher.update(training='frozen', checkpoint=str(teacher))
    cfg.model.members.student2 = None
    cfg.model.sharing, cfg.model.ensemble = None, dict(members=['student1'])
    cfg.model.links = [
        ie('teacher', 'student1', joint=False, split=dict(mode='random')),
        *correlations('teacher', 'student1'),
    ]
    cfg.custom_hooks.append(dict(type='mmkd.FactorPretrainHook', epochs=2))
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    cfg.merge_from_dict(changes)
    cfg.experiment_name = f'ie_{next(COUNTER)}'
    return cfg


@pytest.fixture
def teacher(toolkit, data, tmp_path):
    """A checkpoint of the teacher's shape."""
    torch.manual_seed(3)
    options = {
        'backbone.base_channels': 8,
        'backbone.stem_channels': 8,
        'head.in_channels': 64,
        'head.num_classes': 2,
        'head.topk': (1,),
    }
    DefaultScope.get_instance(f'ie-{next(COUNTER)}', scope_name='mmpretrain')
    model = toolkit.make_distiller(
        members=dict(t=dict(config=CIFAR, options=options)),
        ensemble=dict(members=['t']),
        data_preprocessor=dict(PLAIN, _scope_='mmpretrain'),
    )
    torch.save(dict(state_dict=model.network('t').state_dict()), tmp_path / 'teacher.pth')
    return tmp_path / 'teacher.pth'


def factors_logged(work_dir):
    text = ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))
    return [
        float(value)
        for value in re.findall(r'Fitting, epoch .*: student1 <- teacher.feature: ([\d.]+)', text)
    ]


def test_the_auto_encoder_is_trained_before_and_a_resumed_run_equals_an_unbroken_one(
    data, tmp_path, teacher, monkeypatch
):
    fitted, fit = {}, FactorPretrainHook.before_train

    def before_train(hook, runner):
        fit(hook, runner)
        if not fitted:
            fitted.update(copy.deepcopy(runner.model.state_dict()))

    monkeypatch.setattr(FactorPretrainHook, 'before_train', before_train)
    whole = Runner.from_cfg(small(data, tmp_path / 'whole', teacher))
    start = copy.deepcopy(whole.model.link_modules.state_dict())
    whole.train()
    first, second = factors_logged(tmp_path / 'whole')
    assert second < first
    state = whole.model.state_dict()
    own = {
        key: value
        for key, value in state.items()
        if '.source_connectors.0.' in key and 'teacher_0.' in key
    }
    assert own and any(not torch.equal(value, start[key[13:]]) for key, value in own.items())
    saved = torch.load(tmp_path / 'whole/epoch_1.pth', weights_only=False)['state_dict']
    for key, value in own.items():  # frozen from the first step on
        assert torch.equal(saved[key], value) and torch.equal(fitted[key], value)
    assert any(key.endswith('split.order') for key in saved) and not any(
        'teacher' in key for key in saved if key.startswith('members.')
    )
    torch.manual_seed(999)
    # The first epoch's checkpoint, gone on from in a Runner of its own.
    resumed = small(data, tmp_path / 'resumed', teacher)
    resumed.load_from, resumed.resume = str(tmp_path / 'whole/epoch_1.pth'), True
    runner = Runner.from_cfg(resumed)
    for key, value in runner.model.link_modules.state_dict().items():
        value.copy_(
            value.flip(0) if key.endswith('order') else torch.zeros_like(value)
        )  # what is in the checkpoint counts
    runner.train()
    assert factors_logged(tmp_path / 'resumed') == []  # not repeated
    unequal = [
        key
        for key, value in runner.model.state_dict().items()
        if not torch.equal(value, state[key])
    ]
    assert not unequal, unequal[:5]


def test_a_signal_while_the_auto_encoder_is_trained_is_obeyed_and_resumed(data, tmp_path, teacher):
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    @HOOKS.register_module(force=True)
    class SignalBeforeHook(Hook):
        def after_pretrain_iter(self, runner, iteration):
            if iteration == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    short = {'train_cfg.max_epochs': 1, 'val_cfg': None, 'val_dataloader': None}
    short['val_evaluator'] = None
    whole = Runner.from_cfg(small(data, tmp_path / 'whole', teacher, **short))
    whole.train()
    drawn = numpy.random.rand()
    cut = small(data, tmp_path / 'cut', teacher, **short)
    cut.custom_hooks.append(dict(type='SignalBeforeHook'))
    with pytest.raises(SystemExit) as left:
        Runner.from_cfg(cut).train()
    assert left.value.code == 99
    resumed = small(data, tmp_path / 'cut', teacher, **short)
    resumed.load_from, resumed.resume = str(tmp_path / 'cut/preempted_iter_0.pth'), True
    runner = Runner.from_cfg(resumed)
    runner.train()
    assert numpy.random.rand() == drawn
    own = runner.model.state_dict()
    assert runner.iter == whole.iter == 3
    assert all(torch.equal(value, own[key]) for key, value in whole.model.state_dict().items())


def test_pretraining_leaves_the_students_random_numbers_alone(data, tmp_path, teacher):
    """With a link of weight 0 the student is that of a run without link and hook, bit for bit."""
    runs = {}
    for name in ('with', 'without'):
        cfg = small(data, tmp_path / name, teacher, **{'train_cfg.max_epochs': 1})
        cfg.model.links = [dict(cfg.model.links[0], weight=0.0)] if name == 'with' else []
        if name == 'without':
            cfg.custom_hooks.pop()
        runner = Runner.from_cfg(cfg)
        runner.train()
        runs[name] = runner.model.network('student1').state_dict()
    assert factors_logged(tmp_path / 'with') and not factors_logged(tmp_path / 'without')
    assert all(torch.equal(value, runs['without'][key]) for key, value in runs['with'].items())


def test_without_the_hook_training_says_what_is_missing(data, tmp_path, teacher):
    cfg = small(data, tmp_path / 'work', teacher)
    cfg.custom_hooks.pop()
    with pytest.raises(RuntimeError, match='not trained yet: add custom_hooks'):
        Runner.from_cfg(cfg).train()


def test_the_exported_student_has_none_of_the_links_modules_and_gives_the_same_outputs(
    data, tmp_path, teacher
):
    from mmkd.export import export_member

    cfg = small(data, tmp_path / 'work', teacher, **{'train_cfg.max_epochs': 1})
    runner = Runner.from_cfg(cfg)
    runner.train()
    checkpoint, config = export_member(
        cfg, runner.model.state_dict(), 'student1', tmp_path / 'student.pth'
    )
    plain = Config.fromfile(config)
    assert 'mmkd' not in plain.pretty_text
    DefaultScope.get_instance(f'ie-{next(COUNTER)}', scope_name='mmpretrain')
    network = MODELS.build(plain.model).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])  # strict
    batch = labelled(classes=2)
    own = runner.model.eval().predict_members(copy.deepcopy(batch), ['student1'])['student1']
    for one, other in zip(own, network.test_step(copy.deepcopy(batch))):
        # The member renormalizes the shared images: equal to rounding.
        torch.testing.assert_close(one.pred_score, other.pred_score)


def test_two_processes_agree_on_permutation_and_auto_encoder(data, tmp_path, teacher):
    """Even if they start from different seeds; each has its own images."""
    cfg = small(
        data,
        tmp_path / 'work',
        teacher,
        **{'train_cfg.max_epochs': 1, 'randomness': dict(seed=5, diff_rank_seed=True)},
    )
    cfg.train_dataloader.batch_size, cfg.launcher = 3, 'pytorch'
    cfg.model.members.student1.seed = None
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    cfg.dump(tmp_path / 'config.py')
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--nproc_per_node=2',
            '--standalone',
            str(conftest.ROOT / 'tests/training_worker.py'),
            str(tmp_path / 'state'),
            str(tmp_path / 'config.py'),
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (torch.load(f'{tmp_path}/state.{rank}', weights_only=True) for rank in range(2))
    orders = [key for key in one if key.endswith('split.order')]
    encoders = [
        key
        for key in one
        if 'source_connectors.0.encoder' in key or 'source_connectors.0.decoder' in key
    ]
    assert orders and encoders and one[orders[0]].tolist() != sorted(one[orders[0]].tolist())
    for key in one:
        assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(epochs=0), 'FactorPretrainHook.epochs: expected an integer >= 1, got 0'),
        (dict(max_iters=0), 'FactorPretrainHook.max_iters: expected an integer >= 1, got 0'),
    ],
)
def test_wrong_hook_configs(wrong, message):
    with pytest.raises(ValueError, match=message):
        FactorPretrainHook(**wrong)
