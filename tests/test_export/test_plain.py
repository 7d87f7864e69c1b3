"""Plain configs and plain checkpoints of members."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import MODELS as ALL_MODELS
from mmengine.runner import Runner
from torch import nn

from mmkd.export import (
    config_text,
    export_member,
    member_specs,
    plain_config,
    readable,
    self_contained,
)
from mmkd.export.plain import OF_SEVERAL
from mmkd.registry import MODELS
from mmkd.utils.checkpoint import load_file
from mmkd.utils.errors import ConfigError

AUGMENTS = [dict(type='BatchSyncRandomResize', random_size_range=(64, 96), size_divisor=32)]


@pytest.fixture
def cfg(toolkit, data, tmp_path):
    return toolkit.small_config(data, tmp_path / 'work')


def reloaded(text, folder):
    (folder / 'written.py').write_text(text)
    return Config.fromfile(folder / 'written.py')


# ------------------------------------------------------------------ configs


@pytest.mark.parametrize(
    'override, expected',
    [
        (dict(optimizer=dict(lr=1e-4)), dict(type='AdamW', lr=1e-4, weight_decay=0.05)),
        (
            dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.0)),
            dict(type='SGD', lr=0.1, weight_decay=0.0),
        ),
    ],
)
def test_the_optimizer_of_a_member_is_merged_as_in_training(toolkit, cfg, override, expected):
    cfg.optim_wrapper.members = dict(teacher=override)
    plain = plain_config(cfg, 'teacher').optim_wrapper.optimizer
    assert {key: plain.get(key) for key in expected} == expected
    trained = toolkit.make_distiller(init=False)
    settings = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
    wrapper = toolkit.optim_wrapper(trained, **settings)['teacher'].optimizer
    assert type(wrapper).__name__ == expected['type']
    assert wrapper.param_groups[0]['lr'] == plain.lr
    other = plain_config(cfg, 'student1').optim_wrapper
    assert other.optimizer == cfg.optim_wrapper.optimizer and 'members' not in other


@pytest.mark.parametrize('hooks', [None, dict(checkpoint=None)])
def test_a_training_may_have_no_checkpoint_hook(cfg, hooks):
    cfg.default_hooks = hooks
    assert plain_config(cfg, 'student1').default_hooks == hooks


def test_an_ensemble_without_students_is_of_all_members(cfg):
    cfg.model.members = dict(teacher=cfg.model.members.teacher)
    cfg.model.pop('sharing')
    cfg.model.ensemble = None
    plain = plain_config(cfg, 'ensemble')
    assert list(plain.model.members) == plain.model.ensemble.members == ['teacher']


def test_the_ensemble_keeps_the_optimizers_of_its_members_alone(cfg):
    cfg.optim_wrapper.members = dict(
        teacher=dict(optimizer=dict(lr=1.0)), student1=dict(optimizer=dict(lr=2.0))
    )
    assert list(plain_config(cfg, 'ensemble').optim_wrapper.members) == ['student1']


def test_a_training_without_checkpoint_hook_can_be_exported(cfg):
    cfg.default_hooks.checkpoint = None
    assert plain_config(cfg, 'student1').default_hooks.checkpoint is None


def test_the_shared_preprocessing_does_not_depend_on_the_order_of_members(cfg, tmp_path):
    cfg.model.pop('data_preprocessor', None)
    for name, augments in (('teacher', AUGMENTS), ('student1', None), ('student2', None)):
        options = {**cfg.model.members[name].options, 'data_preprocessor.batch_augments': augments}
        cfg.model.members[name].options = options
    assert next(iter(cfg.model.members)) == 'teacher'
    self_contained(cfg)
    as_mmengine_dumps = reloaded(cfg.pretty_text, tmp_path)
    assert next(iter(as_mmengine_dumps.model.members)) == 'student1'
    for name in ('student2', 'ensemble'):
        first, second = (plain_config(c, name).model for c in (cfg, as_mmengine_dumps))
        assert first.data_preprocessor.batch_augments == AUGMENTS
        assert second.data_preprocessor == first.data_preprocessor


def test_a_self_contained_config_does_not_need_the_members_files(cfg, tmp_path):
    member_file = tmp_path / 'net.py'
    spec = member_specs(cfg)['student1']
    member_file.write_text(f'model = {spec.config.to_dict()!r}\n')
    cfg.model.members.student1 = dict(config=str(member_file), seed=1)
    self_contained(cfg)
    member_file.unlink()
    again = reloaded(config_text(cfg), tmp_path)
    assert member_specs(again)['student1'].config == spec.config
    assert again.model.members.student1.seed == 1


def test_a_class_of_mmkd_is_replaced_by_its_plain_config(cfg):
    @MODELS.register_module(force=True)
    class OwnBackbone(nn.Module):
        @classmethod
        def plain_config(cls):
            return dict(type='mmpretrain.TIMMBackbone', model_name='tf_efficientnet_lite0')

    cfg.model.members.student1 = dict(
        config=dict(type='YOLOX', backbone=dict(type='mmkd.OwnBackbone', features_only=True))
    )
    backbone = plain_config(cfg, 'student1').model.backbone
    assert backbone == dict(
        type='mmpretrain.TIMMBackbone', model_name='tf_efficientnet_lite0', features_only=True
    )


def test_a_class_whose_plain_config_depends_on_its_arguments(cfg):
    backbone = dict(
        type='mmkd.EfficientNetLite', arch='lite1', out_indices=(2, 3, 4), pretrained=True
    )
    cfg.model.members.student1 = dict(config=dict(type='YOLOX', backbone=backbone))
    assert plain_config(cfg, 'student1').model.backbone == dict(
        type='mmpretrain.TIMMBackbone',
        model_name='tf_efficientnet_lite1',
        features_only=True,
        out_indices=[2, 3, 4],
    )


def test_a_network_without_a_plain_form_imports_mmkd(cfg):
    backbone = dict(type='mmkd.EfficientNetLite', arch='lite1', upscale=2, norm_eval=True)
    cfg.model.members.student1 = dict(config=dict(type='YOLOX', backbone=backbone))
    plain = plain_config(cfg, 'student1')
    own = dict(type='mmkd.EfficientNetLite', arch='lite1', upscale=2, pretrained=False)
    assert plain.model.backbone == dict(own, out_indices=[0, 1, 2, 3, 4])
    assert plain.custom_imports.imports == ['mmkd']
    assert 'mmkd' not in config_text(plain_config(cfg, 'student2'))


@pytest.mark.parametrize(
    'preset, students', [('mean_teacher', ['student1']), ('peers_ema', ['student1', 'student2'])]
)
def test_averages_that_a_preset_adds_can_be_exported(cfg, preset, students):
    cfg.model.members = {name: cfg.model.members[name] for name in students}
    cfg.model.sharing = dict(type=preset)
    specs = member_specs(cfg)
    averages = {spec.of: name for name, spec in specs.items() if spec.training == 'ema'}
    assert list(averages) == students
    for student, average in averages.items():
        plain = plain_config(cfg, average)
        assert plain.model == plain_config(cfg, student).model
        assert 'mmkd' not in config_text(plain)


def test_wrapped_data_sets_are_unwrapped(cfg):
    inner = cfg.train_dataloader.dataset.to_dict()
    for kind in ('mmkd.LabeledSubset', 'mmkd.SkipUnreadable', 'mmkd.LabeledSubset'):
        options = dict(share=0.1) if 'Subset' in kind else {}
        cfg.train_dataloader.dataset = dict(
            type=kind, dataset=cfg.train_dataloader.dataset, **options
        )
    exported = plain_config(cfg, 'student1').train_dataloader.dataset
    cfg.train_dataloader.dataset = inner
    assert exported == plain_config(cfg, 'student1').train_dataloader.dataset


def test_what_no_runner_reads_keeps_no_student_from_its_export(cfg):
    """Such as the options of another member, which a base config gives by a name."""
    cfg.enlarged = {'backbone': dict(type='mmkd.EfficientNetLite', arch='lite1', upscale=2)}
    cfg.sizes = dict(scale=(96, 96))
    plain = plain_config(cfg, 'student1')
    assert 'enlarged' not in plain and 'sizes' in plain


def test_a_configs_own_variables_are_left_out(cfg):
    cfg._held_out = dict(type='mmkd.LabeledSubset', count=10)  # a wrapper without its data set
    plain = plain_config(cfg, 'student1')
    assert '_held_out' not in plain and 'mmkd' not in config_text(plain)


def test_what_has_no_plain_counterpart_is_refused(cfg):
    cfg.model.members.student1 = dict(config=dict(type='YOLOX', neck=dict(type='mmkd.FeatureMSE')))
    with pytest.raises(ConfigError, match="still need mmkd: .'mmkd.FeatureMSE'"):
        plain_config(cfg, 'student1')


def test_loops_and_hooks_of_mmkd_become_those_they_inherit_from(cfg):
    cfg.train_cfg = dict(type='mmkd.ResumableTrainLoop', max_epochs=2, val_interval=1)
    plain = plain_config(cfg, 'student1')
    assert plain.train_cfg == dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
    assert plain.default_hooks.checkpoint.type == 'CheckpointHook'
    assert plain.log_processor.type == 'LogProcessor'
    assert 'mmkd' not in config_text(plain)


@pytest.mark.parametrize('alone', [True, False])
def test_metrics_of_mmkd_are_left_out(cfg, alone):
    own = dict(type='mmkd.PolypDetMetric', ann_file='val.json')
    other = cfg.val_evaluator.to_dict()
    cfg.val_evaluator = own if alone else [other, own]
    assert plain_config(cfg, 'student1').val_evaluator == ([] if alone else [other])


def test_the_test_pipeline_is_named_for_inferencers(cfg):
    cfg.pop('test_pipeline', None)
    plain = plain_config(cfg, 'student1')
    assert plain.test_pipeline == plain.test_dataloader.dataset.pipeline
    cfg.test_pipeline = [dict(type='LoadImageFromFile')]
    assert plain_config(cfg, 'student1').test_pipeline == cfg.test_pipeline


def test_batch_augmentations_of_a_classifier_are_the_shared_ones(cfg):
    mixup = dict(augments=dict(type='Mixup', alpha=0.8))
    own = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18),
        train_cfg=mixup,
        data_preprocessor=dict(num_classes=3, mean=[1.0, 2.0, 3.0]),
        _scope_='mmpretrain',
    )
    cfg.model.members = dict(a=dict(config=own), b=dict(config=own))
    cfg.model.data_preprocessor = dict(type='ClsDataPreprocessor', _scope_='mmpretrain')
    cfg.model.sharing = cfg.model.ensemble = None
    model = plain_config(cfg, 'a').model
    assert 'train_cfg' not in model and model.data_preprocessor.batch_augments is None
    cfg.model.data_preprocessor.batch_augments = mixup
    model = plain_config(cfg, 'a').model
    assert model.data_preprocessor.batch_augments == mixup
    assert model.data_preprocessor.num_classes == 3


def test_a_network_without_preprocessing_of_its_own_takes_the_shared_one(cfg):
    cfg.model.members.student1 = dict(config=dict(type='YOLOX'))
    cfg.model.data_preprocessor = dict(type='DetDataPreprocessor', mean=[1.0] * 3, std=[2.0] * 3)
    assert plain_config(cfg, 'student1').model.data_preprocessor == cfg.model.data_preprocessor


def test_the_ensemble_keeps_nothing_of_its_members_training_together(cfg):
    cfg.model.sharing = dict(type='kdml_p', weight=dict(type='GradientShare', share=0.2))
    cfg.model.update(max_share=0.3, strong_view=dict(type='SameView'), in_turns=True)
    ALL_MODELS.build(cfg.model)
    cfg.train_cfg.unlabeled_dataloader = dict(batch_size=2)
    plain = plain_config(cfg, 'ensemble')
    assert not set(OF_SEVERAL) & set(plain.model) and plain.model.in_turns
    assert 'unlabeled_dataloader' not in plain.train_cfg
    ALL_MODELS.build(plain.model)


@pytest.mark.parametrize(
    'measured, left',
    [
        (['teacher', 'ensemble'], ['ensemble']),
        (('student2', 'teacher'), ['student2']),
        (['teacher'], None),
        (None, None),
    ],
)
def test_the_ensemble_is_measured_by_those_that_it_has(cfg, measured, left):
    cfg.val_cfg.members = cfg.test_cfg.members = measured
    plain = plain_config(cfg, 'ensemble')
    assert plain.val_cfg.get('members') == plain.test_cfg.get('members') == left


def test_an_ensemble_may_have_no_validation(cfg):
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    assert plain_config(cfg, 'ensemble').val_cfg is None


def test_hooks_and_schedules_of_members_that_are_left_out(cfg):
    switch = dict(type='mmkd.EachMemberHook', hook=dict(type='YOLOXModeSwitchHook'))
    cfg.custom_hooks = [
        dict(switch, members=['teacher']),
        dict(switch, members=['teacher', 'student1']),
        switch,
        dict(type='mmkd.StudyResultHook', expected=['teacher/coco/x', 'ensemble/coco/x']),
    ]
    schedules = {n: [dict(type='ConstantLR', end=i + 1)] for i, n in enumerate(cfg.model.members)}
    cfg.param_scheduler = schedules
    plain = plain_config(cfg, 'ensemble')
    assert plain.custom_hooks == [
        dict(switch, members=['student1']),
        switch,
        dict(type='mmkd.StudyResultHook', expected=['ensemble/coco/x']),
    ]
    assert plain.param_scheduler == {n: schedules[n] for n in ('student1', 'student2')}
    assert plain_config(cfg, 'student1').param_scheduler == schedules['student1']


# ------------------------------------------------------------------ metrics that are waited for

X, Y = 'coco/bbox_mAP', 'coco/bbox_mAP_50'


@pytest.mark.parametrize(
    'best, alone, ensemble',
    [
        (f'student1/{X}', X, f'student1/{X}'),
        (f'ensemble/{X}', X, f'ensemble/{X}'),
        (f'teacher/{X}', X, f'ensemble/{X}'),
        ('ensemble/agreement', None, 'ensemble/agreement'),
        ('auto', 'auto', 'auto'),
        (None, None, None),
        ([f'student1/{X}', f'student1/{Y}'], [X, Y], [f'student1/{X}', f'student1/{Y}']),
        ([f'teacher/{X}', f'student1/{Y}'], [Y], [f'student1/{Y}']),
        ([f'student2/{X}', f'ensemble/{Y}'], [Y], [f'student2/{X}', f'ensemble/{Y}']),
        ([f'teacher/{X}', f'student2/{Y}'], [X], [f'student2/{Y}']),
        ([f'teacher/{X}', f'teacher/{Y}'], [X, Y], [f'ensemble/{X}', f'ensemble/{Y}']),
        (['ensemble/agreement', f'teacher/{X}'], [X], ['ensemble/agreement']),
        (['auto'], ['auto'], ['auto']),
    ],
)
def test_the_best_checkpoint_is_found_by_a_metric_that_there_is(cfg, best, alone, ensemble):
    cfg.default_hooks.checkpoint.update(save_best=best, rule='greater')
    for name, expected in (('student1', alone), ('ensemble', ensemble)):
        checkpoint = plain_config(cfg, name).default_hooks.checkpoint
        assert checkpoint.save_best == expected
        CheckpointHook(**{k: v for k, v in checkpoint.items() if k != 'type'})


def test_each_metric_of_a_best_checkpoint_keeps_its_rule(cfg):
    best, rule = [f'teacher/{X}', f'student1/{Y}', f'student1/{X}'], ['less', 'greater', 'less']
    cfg.default_hooks.checkpoint.update(save_best=best, rule=rule)
    for name in ('student1', 'ensemble'):
        assert plain_config(cfg, name).default_hooks.checkpoint.rule == ['greater', 'less']
    cfg.default_hooks.checkpoint.update(save_best=['ensemble/agreement'], rule=['greater'])
    checkpoint = plain_config(cfg, 'student1').default_hooks.checkpoint
    assert checkpoint.save_best is None and 'rule' not in checkpoint


@pytest.mark.parametrize(
    'monitors, alone, ensemble',
    [
        ([f'student1/{X}'], [X], [f'student1/{X}']),
        ([f'ensemble/{X}'], [X], [f'ensemble/{X}']),
        ([f'teacher/{X}'], [X], [f'ensemble/{X}']),
        ([f'teacher/{X}', f'student1/{Y}'], [Y], [f'student1/{Y}']),
        (['ensemble/agreement'], [], ['ensemble/agreement']),
    ],
)
@pytest.mark.parametrize('default', [True, False])
def test_hooks_and_schedules_wait_for_a_metric_that_there_is(
    cfg, default, monitors, alone, ensemble
):
    hooks = [dict(type='EarlyStoppingHook', monitor=metric, patience=2) for metric in monitors]
    cfg.param_scheduler = [dict(type='ReduceOnPlateauLR', monitor=m) for m in monitors]
    cfg.param_scheduler = [dict(type='ConstantLR'), *cfg.param_scheduler]
    if default:
        cfg.default_hooks.update({f'stop{i}': hook for i, hook in enumerate(hooks)})
    else:
        cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    for name, expected in (('student1', alone), ('ensemble', ensemble)):
        plain = plain_config(cfg, name)
        found = [h for h in plain.default_hooks.values() if h.type == 'EarlyStoppingHook']
        found += [h for h in plain.custom_hooks if h.type == 'EarlyStoppingHook']
        stops = [dict(type='EarlyStoppingHook', monitor=m, patience=2) for m in expected]
        assert found == stops
        first, *plateaus = plain.param_scheduler
        assert first == dict(type='ConstantLR') and [p.monitor for p in plateaus] == expected


def test_one_schedule_outside_a_list(cfg):
    cfg.param_scheduler = dict(type='ReduceOnPlateauLR', monitor=f'student1/{X}')
    assert plain_config(cfg, 'student1').param_scheduler.monitor == X
    cfg.param_scheduler.monitor = 'ensemble/agreement'
    assert plain_config(cfg, 'student1').param_scheduler == []


def test_another_metric_stands_for_one_of_a_member_left_out_if_it_is_measured(cfg):
    cfg.val_cfg.members = ['teacher', 'student1']
    cfg.default_hooks.checkpoint.save_best = f'teacher/{X}'
    assert plain_config(cfg, 'ensemble').default_hooks.checkpoint.save_best == f'student1/{X}'


def test_a_member_may_be_named_like_a_metric(cfg):
    cfg.model.members.coco = cfg.model.members.pop('student1')
    cfg.model.ensemble.members = ['coco', 'student2']
    for best in (f'ensemble/{X}', f'coco/{X}'):
        cfg.default_hooks.checkpoint.save_best = best
        assert plain_config(cfg, 'coco').default_hooks.checkpoint.save_best == X


def test_a_plain_training_finds_the_metrics_that_it_waits_for(cfg, tmp_path):
    cfg.default_hooks.checkpoint.save_best = [f'student1/{X}', f'ensemble/{Y}']
    cfg.custom_hooks.append(dict(type='EarlyStoppingHook', monitor=f'student1/{X}', strict=True))
    cfg.param_scheduler = [dict(type='ReduceOnPlateauLR', monitor=f'student1/{X}')]
    plain = plain_config(cfg, 'student1')
    plain.work_dir, plain.train_cfg.max_epochs = str(tmp_path / 'plain'), 1
    Runner.from_cfg(plain).train()
    assert list((tmp_path / 'plain').glob('best_coco_bbox_mAP_epoch_1.pth'))


# ------------------------------------------------------------------ padding

RGB = dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True)
BGR = dict(mean=[103.5, 116.3, 123.7], std=[57.4, 57.1, 58.4])


@pytest.mark.parametrize('shared', [{}, BGR, RGB], ids=['raw', 'bgr', 'rgb'])
@pytest.mark.parametrize(
    'own',
    [
        {},
        dict(pad_value=7),
        dict(BGR, pad_value=7),
        dict(RGB, pad_value=7),
        RGB,
        dict(mean=[100], std=[50]),
        dict(mean=[100.0] * 3, std=(50.0,) * 3, rgb_to_bgr=True),
        None,
    ],
)
def test_an_export_pads_as_in_the_joint_training(toolkit, cfg, own, shared):
    kind = dict(type='DetDataPreprocessor', pad_size_divisor=32)
    cfg.model.data_preprocessor = dict(kind, **shared, pad_value=114)
    preprocessor = None if own is None else dict(kind, **own)
    options = {**cfg.model.members.student1.options, 'data_preprocessor': preprocessor}
    cfg.model.members = dict(student1=dict(cfg.model.members.student1, options=options))
    cfg.model.sharing = cfg.model.ensemble = None
    batch = toolkit.make_batch(size=56)  # padded to 64
    expected = images_of_student1(ALL_MODELS.build(cfg.model), batch)
    ensemble = ALL_MODELS.build(plain_config(cfg, 'ensemble').model)
    alone = ALL_MODELS.build(plain_config(cfg, 'student1').model)
    for found in (
        images_of_student1(ensemble, batch),
        alone.data_preprocessor(copy.deepcopy(batch), False)['inputs'],
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert expected.shape[-1] == 64 and len(expected[..., 56:].unique()) == 1


def images_of_student1(model, batch):
    """What the member sees of a loader's batch."""
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    return model.members.inputs_of('student1', data['inputs'], data['data_samples'])


def test_segmentation_networks_pad_as_in_the_joint_training(cfg):
    raw = dict(type='SegDataPreProcessor', size=(64, 64), pad_val=3)
    other = dict(raw, mean=[90.0, 80.0, 70.0], std=[30.0, 40.0, 50.0], pad_val=5)
    cfg.model = dict(
        type='mmkd.OnlineDistiller',
        members={
            name: dict(config=dict(type='EncoderDecoder', data_preprocessor=own))
            for name, own in dict(a=raw, b=other, c=dict(raw, pad_val=7)).items()
        },
    )
    found = {n: plain_config(cfg, n).model.data_preprocessor.pad_val for n in 'abc'}
    assert found == dict(a=3, b=5, c=3)


# ------------------------------------------------------------------ config text


def test_the_text_gives_the_config_back(cfg, tmp_path):
    assert reloaded(config_text(cfg), tmp_path)._cfg_dict == cfg._cfg_dict
    assert list(reloaded(config_text(cfg), tmp_path).model.members) == list(cfg.model.members)


def test_names_that_are_keywords_and_numbers_without_literal(tmp_path):
    members = {'lambda': dict(seed=1), 'class': dict(lr=float('inf'))}
    cfg = readable(Config(dict(model=dict(members=members), a=(1,))))
    again = reloaded(cfg.pretty_text, tmp_path)
    assert again.model.members['lambda'].seed == 1
    assert again.model.members['class'].lr == float('inf') and again.a == (1,)
    cfg.dump(tmp_path / 'dumped.py')
    assert (tmp_path / 'dumped.py').read_text() == cfg.pretty_text


# ------------------------------------------------------------------ files


@pytest.fixture
def state(cfg):
    return ALL_MODELS.build(cfg.model).state_dict()


def test_an_export_replaces_an_earlier_one_and_nothing_else(cfg, state, tmp_path):
    out = tmp_path / 'student1.pth'
    export_member(cfg, state, 'student1', out)
    before = out.read_bytes()
    state['members.student1.bbox_head.multi_level_conv_cls.0.bias'] += 1
    export_member(cfg, state, 'student1', out)
    assert out.read_bytes() != before

    training = tmp_path / 'training.py'
    training.write_text('model = 1\n')
    with pytest.raises(ConfigError, match=r'training.py is there already and is no export'):
        export_member(cfg, state, 'student1', training.with_suffix('.pth'))
    assert training.read_text() == 'model = 1\n'
    assert not training.with_suffix('.pth').exists()

    checkpoint = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=state, meta=dict(epoch=1)), checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(ConfigError, match=r'epoch_1.pth is there already and is no export'):
        export_member(cfg, state, 'student1', checkpoint)
    assert checkpoint.read_bytes() == before


def test_weights_of_another_network_are_refused(cfg, state, tmp_path):
    cfg.model.members.student1.options = {
        **cfg.model.members.student1.options,
        'bbox_head.num_classes': 3,
    }
    with pytest.raises(ConfigError, match="'student1': the checkpoint does not fit the network"):
        export_member(cfg, state, 'student1', tmp_path / 'x.pth', verify=True)
    assert not list(tmp_path.glob('x.*'))


def test_a_frozen_member_is_exported_from_the_checkpoint_that_it_is(cfg, state, tmp_path):
    export_member(cfg, state, 'teacher', tmp_path / 'teacher.pth')
    cfg.model.members.teacher.update(training='frozen', checkpoint=str(tmp_path / 'teacher.pth'))
    cfg.model.ensemble = dict(members=['teacher', 'student1'])
    students = {k: v for k, v in state.items() if not k.startswith('members.teacher.')}
    export_member(cfg, students, 'ensemble', tmp_path / 'both.pth', verify=True)
    both = load_file(str(tmp_path / 'both.pth'), 'x')['state_dict']
    assert {key.split('.')[1] for key in both} == {'teacher', 'student1'}
    assert all(torch.equal(value, state[key]) for key, value in both.items())


def test_label_noise_is_left_out():
    root = Path(__file__).parents[2]
    cfg = Config.fromfile(root / 'configs/mmkd/studies/tiny20_noise.py')
    assert any('LabelNoise' in str(step['type']) for step in steps_of(cfg.train_dataloader))
    plain = plain_config(cfg, 'student1')
    assert not any('LabelNoise' in str(step['type']) for step in steps_of(plain.train_dataloader))


def steps_of(loader):
    dataset = loader.dataset
    while 'pipeline' not in dataset:
        dataset = dataset.dataset
    return dataset.pipeline
