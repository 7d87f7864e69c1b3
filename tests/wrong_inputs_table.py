"""The table of wrong inputs that tests/wrong_inputs.py runs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN, TEST, EXPORT = 'tools/train.py', 'tools/test.py', 'tools/export_student.py'
INFER, ONNX = 'tools/infer.py', 'tools/export_onnx.py'

SEGMENTATION = """_base_ = '{root}/configs/mmkd/polyp_unet_mixed_demo.py'
_narrow = {{'backbone.base_channels': 4, 'decode_head.in_channels': 4, 'decode_head.channels': 4}}
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    members=dict(teacher=dict(options=_narrow), student1=dict(options=_narrow), student2=dict(options=_narrow)))
train_dataloader = dict(batch_size=4, drop_last=False, dataset=dict(data_root='{data}/'))
val_dataloader = dict(batch_size=4, dataset=dict(data_root='{data}/'))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
work_dir = 'work'
"""
CLASSIFICATION = """_base_ = '{root}/configs/mmkd/msi_resnet_kdml_demo.py'
_narrow = {{'backbone.base_channels': 4, 'backbone.stem_channels': 4, 'head.in_channels': 32}}
model = dict(members=dict(teacher=dict(options=_narrow), student1=dict(options=_narrow), student2=dict(options=_narrow)))
train_dataloader = dict(
    batch_size=4, drop_last=False, dataset=dict(
        type='mmkd.FolderClassification', data_root='{data}/', data_prefix='images/train', ann_file='labels/train.txt',
        classes=('no polyp', 'polyp'), pipeline={{{{_base_.train_pipeline}}}}, _delete_=True))
val_dataloader = dict(batch_size=4, dataset=dict(data_root='{data}/'))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
work_dir = 'work'
"""


@dataclass
class Case:
    """A wrong input.

    Args:
        id (str): Short name.
        what (str): What the user did.
        expected (tuple[str]): Parts of the message (of the output, where it works).
        config (str, optional): Lines of a config that inherits from `base`.
        command (list[str]): Tool and arguments. Default: train with the config.
        base (str): `det`, `seg` or `cls`.
        prepare (callable, optional): Called with the case's folder and the shared one.
        works (bool): It looks wrong but must train.
        leaves (bool): It comes to light after an epoch, whose checkpoints stay.
        process (bool): Run as a process of its own and not as a fork.
    """

    id: str
    what: str
    expected: tuple
    config: str | None = None
    command: tuple = (TRAIN, 'config.py')
    base: str = 'det'
    prepare: Callable | None = None
    works: bool = False
    leaves: bool = False
    process: bool = False


def config(id, what, text, *expected, **kwargs):
    return Case(id, what, expected, config=text, **kwargs)


def members(text):
    return f'model = dict(members=dict({text}))'


def link(text):
    return f"model = dict(links=[dict(source='teacher', target='student1', {text})])"


def unlabeled(steps):
    dataset = f"type='mmkd.UnlabeledImages', data_root='BASE/data/images/val', pipeline=[dict(type='LoadImageFromFile'), {steps}]"
    sampler = "sampler=dict(type='DefaultSampler', shuffle=True)"
    return (
        f'unlabeled_dataloader = dict(batch_size=2, num_workers=0, {sampler}, dataset=dict({dataset}))\n'
        "model = dict(sharing=dict(_delete_=True, type='cps'))\n"
    )


def line(id, what, command, *expected, **kwargs):
    return Case(id, what, expected, command=tuple(command), **kwargs)


# ------------------------------------------------------------------ configs
CONFIGS = [
    config(
        'model-key',
        'unknown key of the model',
        "model = dict(sharin='kd_p')",
        'model.sharin',
        "did you mean 'sharing'",
    ),
    config(
        'pretrain-member',
        'a first stage for a member that is not there',
        "pretrain = dict(members='teachr')",
        'pretrain.members',
        "did you mean 'teacher'",
    ),
    config(
        'pretrain-after',
        'a wrong name in the training after the first stage, which is not begun',
        "pretrain = dict(members='teacher')\n"
        "model = dict(sharing=dict(_delete_=True, type='kd_p', prediction=dict(type='PseudoLable')))",
        'model.sharing (kd_p)[0].loss.type',
        "did you mean 'PseudoLabel'",
        'after pretrain, with teacher frozen',
    ),
    config(
        'pretrain-key',
        'unknown key of the first stage',
        "pretrain = dict(member='teacher')",
        'pretrain.member',
        "did you mean 'members'",
    ),
    config(
        'dot-delta',
        'a momentum of the links beyond 1',
        "optim_wrapper = dict(optimizer=dict(_delete_=True, type='mmkd.DistillationOrientedSGD', lr=0.1, delta=0.5, weight_decay=0.0))",
        'optim_wrapper',
        'momentum + delta < 1',
    ),
    config(
        'unlabeled-masks',
        'label maps among the unlabeled images',
        "unlabeled_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),"
        " dataset=dict(type='mmkd.UnlabeledImages', data_root='BASE/data',"
        " pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]))",
        '12 of 24 images look like label maps',
        'name the folder',
    ),
    config(
        'unlabeled-missing',
        'links on unlabeled images, and no loader of them',
        "model = dict(sharing=dict(_delete_=True, type='cps'))",
        'unlabeled_dataloader: must be given',
        base='seg',
    ),
    config(
        'unlabeled-loop',
        'unlabeled images with a loop of mmengine, which does not load them',
        unlabeled("dict(type='PackSegInputs')")
        + "train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1)",
        'train_cfg.type',
        "'mmkd.ResumableTrainLoop'",
        base='seg',
    ),
    config(
        'unlabeled-size',
        'unlabeled images of a size that the network does not take',
        unlabeled(
            "dict(type='Resize', scale=(90, 90), keep_ratio=False), dict(type='PackSegInputs')"
        ),
        'unlabeled_dataloader: images of 90 x 90',
        'should be divisible',
        base='seg',
    ),
    config(
        'unlabeled-labels',
        'a step that loads labels in the pipeline of the unlabeled images',
        unlabeled("dict(type='LoadAnnotations'), dict(type='PackSegInputs')"),
        'unlabeled_dataloader.dataset.pipeline: drop LoadAnnotations',
        base='seg',
    ),
    config(
        'member-key',
        'unknown key of a member',
        members("student1=dict(trainig='frozen')"),
        'model.members.student1.trainig',
        "did you mean 'training'",
    ),
    config(
        'member-name',
        'a member named ensemble',
        members("ensemble=dict(config='x.py')"),
        "'ensemble' is no valid member",
    ),
    config(
        'member-blank',
        'a member name with a blank',
        members("**{'student 3': dict(config='x.py')}"),
        "'student 3' is no valid member name",
    ),
    config(
        'member-no-dict',
        'a member that is a string',
        members("student1='mmdet::x.py'"),
        'model.members.student1',
    ),
    config(
        'members-none',
        'no member left',
        members('teacher=None, student1=None, student2=None'),
        'one or more members',
    ),
    config(
        'member-training',
        'unknown kind of training',
        members("student1=dict(training='frozn')"),
        'model.members.student1.training',
        "'frozn'",
        "did you mean 'frozen'",
    ),
    config(
        'member-config-missing',
        'a member without config',
        members('student3=dict(seed=3)'),
        'model.members.student3.config',
    ),
    config(
        'member-package',
        'package that is not installed',
        members("student1=dict(config='mmdte::yolox/yolox_tiny.py')"),
        'model.members.student1.config',
        "'mmdte' cannot be imported",
    ),
    config(
        'member-package-path',
        'wrong path in a package',
        members("student1=dict(config='mmdet::yolox/yolox_tny_8xb8-300e_coco.py')"),
        'model.members.student1.config',
        "did you mean 'yolox/yolox_tiny_8xb8-300e_coco.py'",
    ),
    config(
        'member-file',
        'config file of a member is not there',
        members("student1=dict(config='nets/mine.py')"),
        'model.members.student1.config',
        "no file 'nets/mine.py'",
    ),
    config(
        'member-option',
        'wrong path in options',
        members("student1=dict(options={'bbox_hed.num_classes': 1})"),
        'model.members.student1.options',
        "did you mean 'bbox_head'",
    ),
    config(
        'member-option-index',
        'a name where options need a number',
        members("student1=dict(options={'neck.in_channels.first': 32})"),
        'model.members.student1.options',
        'neck.in_channels',
    ),
    config(
        'member-option-last',
        'wrong last name in options',
        members("student1=dict(options={'bbox_head.num_clases': 1})"),
        'num_clases',
        'model.members.student1',
    ),
    config(
        'member-model-type',
        'unknown network',
        members("student1=dict(_delete_=True, config=dict(type='YOLOXX'))"),
        'YOLOXX',
        "did you mean 'YOLOX'",
        'model.members.student1',
    ),
    config(
        'member-seed',
        'seed that is no number',
        members("student1=dict(seed='one')"),
        'model.members.student1.seed',
        "'one'",
    ),
    config(
        'member-seed-negative',
        'negative seed',
        members('student1=dict(seed=-1)'),
        'model.members.student1.seed',
        '-1',
    ),
    config(
        'member-momentum',
        'momentum of 2',
        members("avg=dict(training='ema', of='student1', momentum=2)"),
        'model.members.avg.momentum',
        '2',
    ),
    config(
        'member-momentum-text',
        'momentum as text',
        members("avg=dict(training='ema', of='student1', momentum='slow')"),
        'model.members.avg.momentum',
        "'slow'",
    ),
    config(
        'member-checkpointing',
        'activation checkpointing of a module that is not there',
        members("student1=dict(checkpointing=['backbone.stage5'])"),
        'model.members.student1.checkpointing',
        "did you mean 'backbone.stage",
    ),
    config(
        'member-checkpointing-ema',
        'activation checkpointing of a member that keeps no activations',
        members("avg=dict(training='ema', of='student1', checkpointing=True)"),
        'model.members.avg.checkpointing',
        "'ema'",
    ),
    config(
        'member-device',
        'a trained member on a device of its own',
        members("student1=dict(device='cpu')"),
        'model.members.student1.device',
        "'frozen'",
    ),
    config(
        'member-device-missing',
        'a device that is not there',
        members("student1=dict(device='cuda:77')"),
        'model.members.student1.device',
        "no 'cuda:77'",
    ),
    config(
        'compile-option',
        'an unknown option of torch.compile',
        "model = dict(compile=dict(bakend='inductor'))",
        'model.compile.bakend',
        "did you mean 'backend'",
    ),
    config(
        'in-turns-detach',
        'members one after another, with a gradient from one into another',
        "model = dict(in_turns=True, links=[dict(source='teacher', target='student1', "
        'detach=False)])',
        'detach: False needs the graphs of both members',
        'in_turns',
    ),
    config(
        'ema-self',
        'an ema of itself',
        members("avg=dict(training='ema', of='avg')"),
        'model.members.avg.of',
        "'avg'",
    ),
    config(
        'ema-cycle',
        'two emas of each other',
        members("a=dict(training='ema', of='b'), b=dict(training='ema', of='a')"),
        'model.members.a.of',
        'an online member',
    ),
    config(
        'ema-unknown',
        'ema of an unknown member',
        members("avg=dict(training='ema', of='studnt1')"),
        'model.members.avg.of',
        "did you mean 'student1'",
    ),
    config(
        'ema-of-online',
        "`of` without training='ema'",
        members("student1=dict(of='teacher')"),
        'model.members.student1',
        "'of'",
    ),
    config(
        'frozen-without',
        'frozen without checkpoint',
        members("teacher=dict(training='frozen')"),
        'model.members.teacher.checkpoint',
    ),
    config(
        'frozen-missing',
        'frozen with a missing checkpoint',
        members("teacher=dict(training='frozen', checkpoint='best.pth')"),
        'model.members.teacher.checkpoint',
        "no file 'best.pth'",
    ),
    config(
        'all-frozen',
        'no member is trained',
        members(
            "teacher=dict(training='frozen', checkpoint='x.pth'), student1=None, student2=None"
        ),
        "training='online'",
    ),
    config(
        'std-zero',
        'standard deviation of 0',
        'model = dict(data_preprocessor=dict(mean=[0.0] * 3, std=[0.0] * 3))',
        'model.data_preprocessor.std',
        '0.0',
    ),
    config(
        'two-tasks',
        'members of two tasks',
        members(
            "student1=dict(config='mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py', options=None)"
        ),
        'networks of one task',
    ),
    config(
        'task',
        'unknown task',
        "model = dict(task='detecton')",
        'model.task',
        "did you mean 'detection'",
    ),
    config(
        'preset',
        'unknown preset',
        "model = dict(sharing=dict(type='kdml_pp'))",
        'model.sharing.type',
        'did you mean',
    ),
    config(
        'preset-key',
        'unknown key of a preset',
        'model = dict(sharing=dict(tua=1.0))',
        'model.sharing.tua',
        "did you mean 'tau'",
    ),
    config(
        'preset-teacher',
        'preset with an unknown teacher',
        "model = dict(sharing=dict(teacher='techer'))",
        'model.sharing.teacher',
        "did you mean 'teacher'",
    ),
    config(
        'preset-student',
        'preset with an unknown student',
        "model = dict(sharing=dict(students=['student1', 'studnt2']))",
        'model.sharing.students',
        "did you mean 'student2'",
    ),
    config(
        'preset-student-twice',
        'preset with one student twice',
        "model = dict(sharing=dict(students=['student1', 'student1']))",
        'model.sharing.students',
        "'student1' stands more than once",
    ),
    config(
        'preset-one-student',
        'mutual learning of one student',
        "model = dict(sharing=dict(type='ml_p'), ensemble=dict(_delete_=True), members=dict(student2=None))",
        'two or more students',
    ),
    config(
        'preset-weight',
        'weight of a preset as text',
        "model = dict(sharing=dict(weight='1.0'))",
        'model.sharing',
        'weight',
        "'1.0'",
    ),
    config(
        'preset-tau',
        'temperature 0',
        'model = dict(sharing=dict(tau=0))',
        'model.sharing',
        'tau',
        'positive number',
    ),
    config(
        'link-key',
        'unknown key of a link',
        "model = dict(links=[dict(source='teacher', taget='student1')])",
        'model.links[0].taget',
        "did you mean 'target'",
    ),
    config(
        'links-dict',
        'links that are no list',
        "model = dict(links=dict(source='teacher', target='student1'))",
        'model.links',
        'list',
    ),
    config(
        'link-source',
        'unknown source',
        "model = dict(links=[dict(source='techer', target='student1')])",
        'model.links[0].source',
        "did you mean 'teacher'",
    ),
    config(
        'link-self',
        'link from a member to itself',
        "model = dict(links=[dict(source='student1', target='student1')])",
        'source and target are both',
    ),
    config(
        'link-ema',
        'link into an ema member',
        "model = dict(members=dict(avg=dict(training='ema', of='student1')), "
        "links=[dict(source='teacher', target='avg')])",
        'model.links[0].target',
        'is ema and learns nothing',
    ),
    config(
        'link-tap',
        'unknown standard tap',
        link("tap='predicton'"),
        "did you mean 'prediction'",
        'model.links[0]',
    ),
    config(
        'link-path',
        'unknown module',
        link("tap='backbone.stag4'"),
        "did you mean 'backbone.stage4'",
    ),
    config('link-level', 'level that is not there', link("tap='neck[7]'"), 'level [7]', '3 levels'),
    config('link-tap-type', 'tap that is a number', link('tap=4'), 'model.links[0]', 'tap', '4'),
    config(
        'link-weight-text', 'weight as text', link("weight='0.5'"), 'model.links[0].weight', "'0.5'"
    ),
    config(
        'link-weight-negative', 'negative weight', link('weight=-1'), 'model.links[0].weight', '-1'
    ),
    config(
        'link-weight-nan', 'weight nan', link("weight=float('nan')"), 'model.links[0].weight', 'nan'
    ),
    config('link-weight-huge', 'weight 1e30', link('weight=1e30'), 'links[0].weight', '1e+30'),
    config(
        'link-loss',
        'unknown loss',
        link("tap='feature', loss=dict(type='FeatureMES')"),
        'model.links[0].loss',
        "did you mean 'FeatureMSE'",
    ),
    config(
        'link-loss-key',
        'unknown argument of a loss',
        link("tap='feature', loss=dict(type='FeatureMSE', normalise='none')"),
        'model.links[0].loss.normalise',
        "did you mean 'normalize'",
    ),
    config(
        'link-connector',
        'unknown connector',
        link("tap='feature', connector='ConvConector'"),
        'model.links[0].connector',
        "did you mean 'ConvConnector'",
    ),
    config(
        'link-connector-type',
        'connector without type',
        link("tap='feature', connector=dict(kernel_size=1)"),
        'model.links[0].connector',
        "'type'",
    ),
    config(
        'link-schedule',
        'unknown schedule',
        link("schedule=dict(type='SigmoidRmp')"),
        'model.links[0].schedule',
        "did you mean 'SigmoidRamp'",
    ),
    config(
        'link-schedule-value',
        'ramp that ends after the training',
        link("schedule=dict(type='Linear', end=3)"),
        'model.links[0].schedule',
        '0 <= begin < end <= 1',
    ),
    config(
        'link-schedule-text',
        'ramp with text',
        link("schedule=dict(type='Linear', end='half')"),
        'model.links[0].schedule',
    ),
    config(
        'link-classes',
        'members of different class counts',
        members("student1=dict(options={'bbox_head.num_classes': 3})"),
        'student1.prediction',
        'teacher.prediction',
    ),
    config(
        'ensemble-member',
        'unknown member of the ensemble',
        "model = dict(ensemble=dict(members=['student1', 'studnt2']))",
        'model.ensemble.members',
        "did you mean 'student2'",
    ),
    config(
        'ensemble-twice',
        'one member twice in the ensemble',
        "model = dict(ensemble=dict(members=['student1', 'student1']))",
        'model.ensemble.members',
        "'student1' stands more than once",
    ),
    config(
        'ensemble-weights',
        'weight of a member that is not fused',
        'model = dict(ensemble=dict(weights=dict(teacher=2.0)))',
        'model.ensemble.weights',
        "unknown name 'teacher'",
    ),
    config(
        'detection-classes',
        'classes in common that the members do not have',
        link("loss=dict(type='DetectionLoss', classes={3: 0})"),
        'classes: 3 is none of the 1 of the source',
    ),
    config(
        'ensemble-key',
        'unknown key of the ensemble',
        'model = dict(ensemble=dict(iou_tr=0.5))',
        'model.ensemble.iou_tr',
        "did you mean 'iou_thr'",
    ),
    config(
        'ensemble-value',
        'overlap above 1',
        'model = dict(ensemble=dict(iou_thr=1.5))',
        'model.ensemble',
        'iou_thr',
        '1.5',
    ),
    config(
        'optimizer-member',
        'optimiser of an unknown member',
        'optim_wrapper = dict(members=dict(studnt1=dict()))',
        'optim_wrapper.members',
        "did you mean 'student1'",
    ),
    config(
        'optimizer-constructor',
        'optim_wrapper without constructor',
        'optim_wrapper = dict(constructor=None)',
        'optim_wrapper.constructor',
        'mmkd.MemberOptimWrapperConstructor',
    ),
    config(
        'optimizer-type',
        'unknown optimiser',
        "optim_wrapper = dict(optimizer=dict(type='AdamWW'))",
        'optim_wrapper.optimizer.type',
        "did you mean 'AdamW'",
    ),
    config(
        'optimizer-key',
        'unknown argument of the optimiser',
        'optim_wrapper = dict(optimizer=dict(learning_rate=1))',
        'optim_wrapper.optimizer',
        'learning_rate',
    ),
    config(
        'optimizer-paramwise',
        'misspelt multiplier of the learning rate',
        'optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mul=0.1))))',
        "paramwise_cfg.custom_keys['backbone']",
        "did you mean 'lr_mult'",
    ),
    config(
        'optimizer-skips',
        'a training that ends at the first step',
        'optim_wrapper = dict(max_skips=0)',
        'optim_wrapper.max_skips',
        '>= 1',
    ),
    config(
        'optimizer-lr',
        'learning rate as text',
        "optim_wrapper = dict(optimizer=dict(lr='fast'))",
        'optim_wrapper',
        'fast',
    ),
    config(
        'hook-type',
        'unknown hook',
        "custom_hooks = [dict(type='mmkd.MemberHok')]",
        'custom_hooks[0].type',
        "did you mean 'mmkd.MemberHook'",
    ),
    config(
        'hook-key',
        'unknown argument of a hook',
        "custom_hooks = [dict(type='mmkd.PreemptionHook', exit_cod=9)]",
        'custom_hooks[0]',
        'exit_cod',
    ),
    config(
        'hook-signal',
        'unknown signal',
        "custom_hooks = [dict(type='mmkd.PreemptionHook', signals=['SIGTRM'])]",
        "'SIGTRM'",
        'PreemptionHook.signals',
    ),
    config(
        'hook-rule',
        'unknown rule of the best member',
        "custom_hooks = [dict(type='mmkd.BestMemberHook', metric='coco/bbox_mAP', rule='more')]",
        'BestMemberHook.rule',
        "'more'",
    ),
    config(
        'hook-metric',
        'metric of the best member that does not exist',
        "custom_hooks = [dict(type='mmkd.MemberHook'), dict(type='mmkd.BestMemberHook', metric='coco/mAP')]",
        'BestMemberHook.metric',
        '/coco/bbox_mAP',
        leaves=True,
    ),
    config(
        'save-best',
        'save_best key that does not exist',
        "default_hooks = dict(checkpoint=dict(save_best='ensemble/coco/mAP'))",
        'default_hooks.checkpoint.save_best',
        "did you mean 'ensemble/coco/bbox_mAP'",
        leaves=True,
    ),
    config(
        'save-best-plain',
        "a plain config's save_best, without a member",
        "default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))",
        "default_hooks.checkpoint.save_best: 'coco/bbox_mAP' names none",
        "did you mean 'ensemble/coco/bbox_mAP'",
    ),
    config(
        'optim-layer-decay',
        "a toolbox's constructor in place of mmkd's",
        "optim_wrapper = dict(constructor='mmdet.LearningRateDecayOptimizerConstructor')",
        "optim_wrapper.constructor: 'mmdet.LearningRateDecayOptimizerConstructor' builds the optimizer of one",
        'name it as optim_wrapper.member_constructor',
    ),
    config(
        'optim-member-layer-decay',
        'a constructor of one member under the wrong name',
        "optim_wrapper = dict(members=dict(teacher=dict(constructor='DefaultOptimWrapperConstructor')))",
        'optim_wrapper.members.teacher.constructor',
        'name it as optim_wrapper.members.teacher.member_constructor',
    ),
    config(
        'parts-of-one-network',
        'a plain config as _base_, without _delete_',
        "model = dict(neck=dict(type='FPN'))",
        'model.neck: a part of one network, but there are members',
        'model = dict(_delete_=True, ...)',
    ),
    config(
        'early-stopping-plain',
        'EarlyStoppingHook on a metric without a member',
        "custom_hooks = [dict(type='mmkd.MemberHook'), dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP')]",
        "custom_hooks.EarlyStoppingHook.monitor: 'coco/bbox_mAP' names none",
        "did you mean 'ensemble/coco/bbox_mAP'",
    ),
    config(
        'save-best-of-a-member-without-its-loop',
        "mmengine's ValLoop, whose metrics have no member",
        "val_cfg = dict(_delete_=True, type='ValLoop')\n",
        'default_hooks.checkpoint.save_best',
        "only val_cfg=dict(type='mmkd.MemberValLoop') gives",
    ),
    config(
        'optim-member-number',
        "a number for a member's optimizer",
        'optim_wrapper = dict(members=dict(student1=3))',
        'optim_wrapper.members.student1',
        'expected a dict of what differs, got 3',
    ),
    config(
        'backbone-download',
        'a pretrained backbone that cannot be downloaded',
        members(
            "student1=dict(options={'backbone.init_cfg': dict(type='Pretrained', checkpoint='http://127.0.0.1:9/b.pth')})"
        ),
        'model.members.student1, init_cfg',
        'cannot download',
    ),
    config(
        'evaluator-type',
        'unknown metric',
        "val_evaluator = dict(type='CocoMetrik')",
        'val_evaluator.type',
        "did you mean 'CocoMetric'",
    ),
    config(
        'evaluator-metric',
        'unknown metric of CocoMetric',
        "val_evaluator = dict(metric='boxes')",
        'boxes',
        'bbox',
    ),
    config(
        'evaluator-file',
        'annotation file of the evaluator is missing',
        "val_evaluator = dict(ann_file='nowhere/val.json')",
        'nowhere/val.json',
    ),
    config(
        'evaluator-set',
        'annotation file of the training set for the evaluator',
        "val_evaluator = dict(ann_file='BASE/data/annotations/train.json')",
        'val_evaluator.ann_file',
        'other images than the data set',
    ),
    config(
        'loop-members',
        'loop with an unknown member',
        "val_cfg = dict(members=['studnt1'])",
        'val_cfg.members',
        "did you mean 'student1'",
    ),
    config(
        'train-cfg',
        'unknown argument of the training loop',
        'train_cfg = dict(max_epoch=3)',
        'train_cfg',
        'max_epoch',
    ),
    config(
        'top-level-key',
        'misspelt name of a part of the config',
        'optim_wraper = dict(optimizer=dict(lr=1.0))',
        "optim_wraper: unknown name; did you mean 'optim_wrapper'",
    ),
    config(
        'val-interval',
        'validation every 0 epochs',
        'train_cfg = dict(val_interval=0)',
        'train_cfg.val_interval',
        'got 0',
    ),
    config(
        'loader-list',
        'a loader that is a list',
        'train_dataloader = [1]',
        'train_dataloader',
        '[1]',
    ),
    config(
        'dataset-no-pipeline',
        'an empty pipeline',
        'train_dataloader = dict(dataset=dict(pipeline=[]))',
        'train_dataloader.dataset.pipeline: its items have no inputs and no data_samples',
    ),
    config(
        'dataset-grey',
        'a pipeline that loads gray images',
        "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile', color_type='grayscale'), "
        "dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]))",
        'train_dataloader.dataset.pipeline: images of one channel',
        "color_type='color'",
    ),
    config(
        'resize-zero',
        'Resize to 0',
        "val_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(0, 0))]))",
        'val_dataloader.dataset.pipeline: the first item cannot be made',
    ),
    config(
        'head-classes',
        'a head of 80 classes on data of one',
        members(
            ', '.join(
                f"{name}=dict(options={{'bbox_head.num_classes': 80}})"
                for name in ('teacher', 'student1', 'student2')
            )
        ),
        'model.members.student1: its head tells 80 classes apart',
        'train_dataloader have 1 (polyp)',
    ),
    config('no-model', 'a config without model', "model = 'YOLOX'", 'model: expected a dict'),
    config(
        'sampler-list',
        'a list of images as sampler, which alone would be measured',
        'val_dataloader = dict(sampler=[1])',
        'val_dataloader.sampler',
        '[1]',
    ),
    config(
        'loader-key',
        'unknown argument of the loader',
        'train_dataloader = dict(batchsize=4)',
        'train_dataloader',
        'batchsize',
    ),
    config(
        'loader-workers',
        'negative workers',
        'train_dataloader = dict(num_workers=-1)',
        'num_workers',
        'train_dataloader',
    ),
    config(
        'loader-batch',
        'batch size 0',
        'train_dataloader = dict(batch_size=0)',
        'batch_size',
        'train_dataloader',
    ),
    config(
        'dataset-type',
        'unknown data set',
        "train_dataloader = dict(dataset=dict(type='mmkd.PolypDetecton'))",
        'train_dataloader.dataset.type',
        "did you mean 'mmkd.PolypDetection'",
    ),
    config(
        'dataset-key',
        'unknown argument of the data set',
        "train_dataloader = dict(dataset=dict(anno_file='x.json'))",
        'train_dataloader.dataset',
        'anno_file',
    ),
    config(
        'transform-type',
        'unknown transform',
        "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFil')]))",
        'train_dataloader.dataset.pipeline[0].type',
        "did you mean 'LoadImageFromFile'",
    ),
    config(
        'transform-key',
        'unknown argument of a transform',
        "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile', to_float=True)]))",
        'train_dataloader.dataset.pipeline[0]',
        'to_float',
    ),
    config(
        'scheduler-type',
        'unknown learning rate schedule',
        "param_scheduler = [dict(type='CosineLR')]",
        'param_scheduler[0].type',
        'did you mean',
    ),
    config(
        'scheduler-value',
        'learning rate schedule that ends at nan',
        "param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=float('nan'))]",
        'param_scheduler[0].end',
        'nan',
    ),
    config(
        'sampler',
        'unknown sampler',
        "train_dataloader = dict(sampler=dict(type='DefaultSampleer'))",
        'train_dataloader.sampler.type',
        "did you mean 'DefaultSampler'",
    ),
    config(
        'model-type',
        'unknown distiller',
        "model = dict(type='mmkd.OnlineDistiler')",
        'model.type',
        "did you mean 'mmkd.OnlineDistiller'",
    ),
    config(
        'import',
        'custom_imports of a module that is not there',
        "custom_imports = dict(imports=['mmkd', 'mynets'])",
        'mynets',
    ),
    config('syntax', 'config that is no Python', 'model = dict(', 'config.py'),
    line(
        'base-missing',
        '_base_ that is not there',
        (TRAIN, 'config.py'),
        'nothing.py',
        prepare=lambda f, s: (f / 'config.py').write_text("_base_ = './nothing.py'\n"),
    ),
    config('default-scope', 'unknown default_scope', "default_scope = 'mmdett'", 'mmdett'),
    config(
        'seg-classes',
        'segmenters of different class counts',
        members("student1=dict(options={'decode_head.num_classes': 3})"),
        'student1.prediction',
        base='seg',
    ),
    config(
        'cls-fusion',
        'unknown fusion of classifiers',
        "model = dict(ensemble=dict(fusion='mean'))",
        'fusion',
        "'mean'",
        base='cls',
    ),
]


# ------------------------------------------------------------------ data
HERE = "train_dataloader = dict(dataset=dict(data_root='data/'))"


def data(id, what, change, *expected, base='det', text=HERE, **kwargs):
    """A case on a copy of the data that `change(folder)` damages."""

    def prepare(folder, shared):
        shutil.copytree(shared / 'data', folder / 'data')
        change(folder / 'data')

    return Case(id, what, expected, config=text, base=base, prepare=prepare, **kwargs)


def frame(folder, kind='images'):
    """The path of a training frame."""
    return sorted((folder / kind / 'train').glob('*.png'))[0]


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def as_jpeg(folder):
    """Write the training frames as JPEG files, the first one cut in half."""
    import cv2

    for path in (folder / 'images/train').glob('*.png'):
        cv2.imwrite(str(path.with_suffix('.jpg')), cv2.imread(str(path)))
        path.unlink()
    first = sorted((folder / 'images/train').glob('*.jpg'))[0]
    cut(first)
    path = folder / 'annotations/train.json'
    path.write_text(path.read_text().replace('.png', '.jpg'))
    return first


def repaint(convert):
    def change(folder):
        import cv2

        for path in (folder / 'images/train').glob('*.png'):
            assert cv2.imwrite(str(path), convert(cv2.imread(str(path))))

    return change


def masks(convert):
    def change(folder):
        import cv2

        for path in (folder / 'masks/train').glob('*.png'):
            assert cv2.imwrite(str(path), convert(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))

    return change


def grey(image):
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def with_alpha(image):
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)


def deep(image):
    return image.astype('uint16') * 257


def annotations(change):
    """Change the COCO file of the training set."""

    def apply(folder):
        path = folder / 'annotations/train.json'
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return apply


def each_box(box):
    def change(content):
        for annotation in content['annotations']:
            annotation['bbox'] = list(box)

    return annotations(change)


def each(key, value, entries='annotations'):
    def change(content):
        for entry in content[entries]:
            entry[key] = value

    return annotations(change)


def renamed(folder):
    """Give the frames names with blanks and letters outside ASCII."""
    text = (folder / 'annotations/train.json').read_text()
    content = json.loads(text)
    labels = (folder / 'labels/train.txt').read_text()
    for i, image in enumerate(content['images']):
        old, new = image['file_name'], f'Polyp Größe 内視鏡 {i}.png'
        for kind in ('images', 'masks'):
            (folder / kind / 'train' / old).rename(folder / kind / 'train' / new)
        labels = labels.replace(old, new)
        image['file_name'] = new
    (folder / 'annotations/train.json').write_text(json.dumps(content))
    (folder / 'labels/train.txt').write_text(labels, encoding='utf-8')


def empty(folder):
    (folder / 'annotations/train.json').write_text(
        json.dumps(dict(images=[], annotations=[], categories=[dict(id=1, name='polyp')]))
    )


JPEG = HERE.replace("data_root='data/'", "data_root='data/', img_suffix='.jpg'")
RAN = 'Epoch(val) [1][1/1]'
DATA = [
    data(
        'data-missing',
        'data folder is not there',
        shutil.rmtree,
        'data/annotations/train.json',
        'tools/convert_polyp.py',
    ),
    data(
        'data-annotations',
        'annotation file is not there',
        lambda d: (d / 'annotations/train.json').unlink(),
        'no annotation file',
        'annotations/train.json',
    ),
    data(
        'data-images',
        'image folder is not there',
        lambda d: shutil.rmtree(d / 'images/train'),
        'no image folder',
        'images/train',
    ),
    data('data-image', 'one image is not there', lambda d: frame(d).unlink(), '00000.png'),
    data(
        'data-json',
        'annotation file cut in half',
        lambda d: cut(d / 'annotations/train.json'),
        'train.json',
        'is no COCO annotation file',
    ),
    data(
        'data-json-key',
        'annotations without bbox',
        annotations(lambda c: [a.pop('bbox') for a in c['annotations']] and None),
        'train.json',
        "annotations[0] has no 'bbox'",
    ),
    data(
        'data-category-name',
        'other category',
        each('name', 'cat', 'categories'),
        "no category 'polyp'",
    ),
    data(
        'data-category-id',
        'boxes of an unknown category',
        each('category_id', 7),
        'train.json',
        'category_id 7',
    ),
    data(
        'data-image-id',
        'boxes of an unknown image',
        each('image_id', 999),
        'train.json',
        'image_id 999',
    ),
    data(
        'data-box-outside',
        'boxes outside the images',
        each_box((500, 500, 20, 20)),
        'train.json',
        'outside',
    ),
    data(
        'data-box-zero',
        'boxes without area',
        each_box((5, 5, 0, 9)),
        'train.json',
        'bbox [5, 5, 0, 9]',
    ),
    data(
        'data-box-text',
        'boxes of three numbers',
        each_box((5, 5, 9)),
        'train.json',
        'bbox [5, 5, 9]',
    ),
    data('data-empty', 'an empty training set', empty, 'train.json', 'no images'),
    data(
        'data-zero-bytes',
        'image of zero bytes',
        lambda d: frame(d).write_bytes(b''),
        '00000.png',
        'is empty',
    ),
    data('data-png-cut', 'PNG cut in half', lambda d: cut(frame(d)), '00000.png', 'cut off'),
    data('data-jpeg-cut', 'JPEG cut in half', as_jpeg, '00000.jpg', 'cut off'),
    data(
        'data-jpeg-cut-workers',
        'JPEG cut in half, with a worker',
        as_jpeg,
        '00000.jpg',
        'cut off',
        text=HERE.replace('dict(', 'dict(num_workers=1, ', 1),
    ),
    data(
        'data-jpeg-cut-seg',
        'JPEG cut in half (segmentation)',
        as_jpeg,
        '00000.jpg',
        'cut off',
        base='seg',
        text=JPEG,
    ),
    data(
        'data-text',
        'text in place of an image',
        lambda d: frame(d).write_text('no image'),
        '00000.png',
        'no image',
    ),
    data('data-grey', 'grey images', repaint(grey), RAN, works=True),
    data('data-rgba', 'images with alpha', repaint(with_alpha), RAN, works=True),
    data('data-16-bit', 'images of 16 bits', repaint(deep), RAN, works=True),
    data('data-names', 'names with blanks and letters outside ASCII', renamed, RAN, works=True),
    data(
        'data-names-seg',
        'names with blanks and letters outside ASCII (segmentation)',
        renamed,
        RAN,
        base='seg',
        works=True,
    ),
    data(
        'data-names-cls',
        'names with blanks and letters outside ASCII (classification)',
        renamed,
        RAN,
        base='cls',
        works=True,
    ),
    data(
        'data-batch',
        'batch larger than the set',
        lambda d: None,
        RAN,
        works=True,
        text=HERE.replace('dict(', 'dict(batch_size=64, ', 1),
    ),
    data(
        'data-batch-dropped',
        'batch larger than the set, and drop_last',
        lambda d: None,
        'train_dataloader',
        'batch_size',
        text=HERE.replace('dict(', 'dict(batch_size=64, drop_last=True, ', 1),
    ),
    data('mask-empty', 'empty masks', masks(lambda m: m * 0), RAN, base='seg', works=True),
    data(
        'mask-size',
        'masks of another size',
        masks(lambda m: m[:40]),
        'masks/train/0000',
        '64 x 40',
        '64 x 64',
        base='seg',
    ),
    data(
        'mask-missing',
        'one mask is not there',
        lambda d: frame(d, 'masks').unlink(),
        'no label map',
        '00000.png',
        base='seg',
    ),
    data(
        'mask-255',
        'masks of 0 and 255 in place of labels',
        masks(lambda m: (m > 0).astype('uint8') * 200),
        'masks/train/0000',
        'label 200 of 2 classes',
        base='seg',
    ),
    data(
        'mask-cut',
        'mask cut in half',
        lambda d: cut(frame(d, 'masks')),
        'masks/train/00000.png',
        'cut off',
        base='seg',
    ),
    data(
        'mask-grey-images', 'grey images (segmentation)', repaint(grey), RAN, base='seg', works=True
    ),
    data(
        'seg-suffix',
        'no image of the suffix',
        lambda d: None,
        "'.jpg'",
        'img_suffix',
        base='seg',
        text=JPEG,
    ),
    data(
        'cls-list',
        'list of images is not there',
        lambda d: (d / 'labels/train.txt').unlink(),
        'labels/train.txt',
        base='cls',
    ),
    data(
        'cls-list-line',
        'line without label',
        lambda d: (d / 'labels/train.txt').write_text('a.png\n'),
        'train.txt, line 1',
        base='cls',
    ),
    data(
        'cls-label',
        'label that is none of the classes',
        lambda d: (d / 'labels/train.txt').write_text('00000.png 7\n'),
        'label 7 of 2 classes',
        base='cls',
    ),
    data(
        'cls-empty',
        'an empty list',
        lambda d: (d / 'labels/train.txt').write_text(''),
        'labels/train.txt',
        base='cls',
    ),
    data(
        'cls-image',
        'an image of the list is not there',
        lambda d: frame(d).unlink(),
        '00000.png',
        base='cls',
    ),
    data(
        'cls-cut',
        'PNG cut in half (classification)',
        lambda d: cut(frame(d)),
        '00000.png',
        'cut off',
        base='cls',
    ),
    data(
        'cls-16-bit',
        'images of 16 bits (classification)',
        repaint(deep),
        RAN,
        base='cls',
        works=True,
    ),
]


# ------------------------------------------------------------------ checkpoints
class RunsCode:
    """A pickle that makes a file when it is loaded without care."""

    def __reduce__(self):
        return open, ('ran', 'w')


def checkpoint(change):
    def prepare(folder, shared):
        import torch

        change(folder, shared, torch)

    return prepare


def whole(shared):
    import torch

    return torch.load(shared / 'work/epoch_1.pth', weights_only=False)


def save_member(folder, shared, torch, name='teacher', options=''):
    """Write a plain checkpoint of a member as one of the toolbox's."""
    state = whole(shared)['state_dict']
    prefix = f'members.{name}.'
    torch.save(
        dict(state_dict={k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}),
        folder / 'member.pth',
    )


def cut_checkpoint(folder, shared, torch):
    shutil.copy(shared / 'work/epoch_1.pth', folder / 'epoch_1.pth')
    cut(folder / 'epoch_1.pth')


def evil(folder, shared, torch):
    torch.save(dict(whole(shared), evil=RunsCode()), folder / 'evil.pth')


def text_file(folder, shared, torch):
    (folder / 'note.pth').write_text('weights are on the other disk\n')


def executable_config(folder, shared, torch):
    """A checkpoint whose config texts, which mmengine executes, make a file."""
    content = whole(shared)
    content['meta'].update(dict.fromkeys(('config', 'cfg'), "open('ran', 'w')\nmodel = dict()\n"))
    torch.save(content, folder / 'evil.pth')


START = 'teacher=dict(checkpoint={!r})'
CHECKPOINTS = [
    config(
        'ckpt-architecture',
        'frozen member with the checkpoint of a smaller network',
        members("teacher=dict(training='frozen', checkpoint='member.pth')"),
        'model.members.teacher.checkpoint',
        'does not fit the network',
        prepare=checkpoint(lambda f, s, t: save_member(f, s, t, 'student1')),
    ),
    config(
        'ckpt-classes',
        'frozen member with the checkpoint of another class count',
        members(
            "teacher=dict(training='frozen', checkpoint='member.pth', options={'bbox_head.num_classes': 2})"
        ),
        'model.members.teacher.checkpoint',
        'of another shape',
        'conv_cls',
        prepare=checkpoint(save_member),
    ),
    config(
        'link-frozen',
        'link into a frozen member',
        "model = dict(members=dict(teacher=dict(training='frozen', "
        "checkpoint='member.pth')), links=[dict(source='student1', target='teacher')])",
        'model.links[0].target',
        'is frozen and learns nothing',
        prepare=checkpoint(save_member),
    ),
    config(
        'ckpt-text',
        'start from a text file',
        members(START.format('note.pth')),
        'model.members.teacher.checkpoint',
        "'note.pth'",
        'none of tensors',
        prepare=checkpoint(text_file),
    ),
    config(
        'ckpt-cut',
        'start from a checkpoint cut in half',
        members(START.format('epoch_1.pth')),
        'model.members.teacher.checkpoint',
        'is damaged or no checkpoint',
        prepare=checkpoint(cut_checkpoint),
    ),
    config(
        'ckpt-evil',
        'start from a checkpoint that would run code',
        members(START.format('evil.pth')),
        'model.members.teacher.checkpoint',
        'it is not loaded',
        'io.open',
        prepare=checkpoint(evil),
    ),
    config(
        'ckpt-url',
        'start from a URL that is none',
        members(START.format('http://127.0.0.1:9/x.pth')),
        'model.members.teacher.checkpoint',
        'cannot download',
    ),
    line(
        'test-evil',
        'test a checkpoint that would run code',
        (TEST, 'det.py', 'evil.pth'),
        'it is not loaded',
        prepare=checkpoint(evil),
    ),
    config(
        'start-evil',
        'load_from of a checkpoint that would run code',
        "load_from = 'evil.pth'",
        'load_from',
        'it is not loaded',
        prepare=checkpoint(evil),
    ),
    config(
        'start-plain',
        "load_from of a plain model's checkpoint",
        "load_from = 'member.pth'",
        'load_from',
        'has no weights of the members',
        'model.members.<name>.checkpoint',
        prepare=checkpoint(save_member),
    ),
    config(
        'backbone-evil',
        'a pretrained backbone that would run code',
        members(
            "teacher=dict(options={'backbone.init_cfg': dict(type='Pretrained', checkpoint='evil.pth')})"
        ),
        'it is not loaded',
        prepare=checkpoint(evil),
    ),
    line(
        'visualize-evil',
        'visualize a checkpoint that would run code',
        ('tools/visualize.py', 'det.py', 'evil.pth', '--out', 'v'),
        'it is not loaded',
        prepare=checkpoint(evil),
    ),
    line(
        'report-evil',
        'report on a checkpoint that would run code',
        ('tools/report.py', 'BASE/work', '--checkpoint', 'evil.pth'),
        'it is not loaded',
        prepare=checkpoint(evil),
    ),
    line(
        'report-plain',
        "report on a plain model's checkpoint",
        ('tools/report.py', 'BASE/work', '--checkpoint', 'member.pth'),
        'member.pth',
        'with the members []',
        prepare=checkpoint(save_member),
    ),
    line(
        'benchmark-evil',
        'benchmark with a start that would run code',
        ('tools/benchmark.py', 'config.py', '--steps', '1'),
        'it is not loaded',
        process=True,
        prepare=lambda f, s: (
            checkpoint(evil)(f, s),
            (f / 'config.py').write_text(
                f"_base_ = './det.py'\n{members(START.format('evil.pth'))}\n"
            ),
        ),
    ),
    line(
        'resume-text',
        'resume from a checkpoint whose config text would run code',
        (TRAIN, 'det.py', '--resume', 'evil.pth', '--cfg-options', 'train_cfg.max_epochs=2'),
        'resumed epoch: 1',
        works=True,
        prepare=checkpoint(executable_config),
    ),
    line(
        'export-text',
        'export from a checkpoint whose config text would run code',
        (EXPORT, 'evil.pth', 'student1', 'out/s.pth', '--config', 'det.py'),
        'wrote out/s.pth',
        works=True,
        prepare=checkpoint(executable_config),
    ),
    line(
        'export-other',
        'export with the config of another model',
        (EXPORT, 'BASE/work/epoch_1.pth', 'student1', 'out/s.pth', '--config', 'seg.py'),
        'does not fit the network',
    ),
    line(
        'export-over-config',
        'export over the training config',
        (EXPORT, 'BASE/work/epoch_1.pth', 'student1', 'det.pth'),
        'det.py is there already',
    ),
    line(
        'export-over-itself',
        'export over the checkpoint',
        (EXPORT, 'epoch_1.pth', 'student1', 'epoch_1.pth', '--config', 'det.py'),
        'is the checkpoint itself',
        prepare=lambda f, s: shutil.copy(s / 'work/epoch_1.pth', f / 'epoch_1.pth'),
    ),
    line(
        'resume-batch',
        'resume with another batch size',
        (TRAIN, 'config.py', '--resume', 'BASE/work/epoch_1.pth'),
        '--resume',
        'iterations',
        'batch size',
        prepare=lambda f, s: (f / 'config.py').write_text(
            "_base_ = './det.py'\ntrain_dataloader = dict(batch_size=8)\n"
            'train_cfg = dict(max_epochs=2)\n'
        ),
    ),
    line(
        'resume-optimizer',
        'resume with another optimizer',
        (TRAIN, 'config.py', '--resume', 'BASE/work/epoch_1.pth'),
        '--resume',
        'momentum',
        prepare=lambda f, s: (f / 'config.py').write_text(
            "_base_ = './det.py'\ntrain_cfg = dict(max_epochs=2)\n"
            "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0))\n"
        ),
    ),
    line(
        'resume-none',
        'resume from a file that holds nothing',
        (TRAIN, 'det.py', '--resume', 'none.pth'),
        "--resume: 'none.pth' is no checkpoint of a training",
        prepare=checkpoint(lambda f, s, torch: torch.save(None, f / 'none.pth')),
    ),
    config(
        'backbone-list',
        'a pretrained backbone from a file that holds a list',
        members(
            "student1=dict(options={'backbone.init_cfg': dict(type='Pretrained', checkpoint='list.pth')})"
        ),
        "'list.pth' has no 'state_dict' of named tensors",
        prepare=checkpoint(lambda f, s, torch: torch.save([1, 2], f / 'list.pth')),
    ),
    line(
        'resume-damaged',
        'resume where all checkpoints are damaged',
        (TRAIN, 'det.py', '--resume'),
        '--resume',
        'none can be resumed from',
        'epoch_1.pth',
        prepare=lambda f, s: (
            shutil.copytree(s / 'work', f / 'work'),
            cut(f / 'work/epoch_1.pth'),
        ),
    ),
    line(
        'test-cut',
        'test a checkpoint cut in half',
        (TEST, 'det.py', 'epoch_1.pth'),
        'epoch_1.pth',
        'is damaged',
        prepare=checkpoint(cut_checkpoint),
    ),
    line(
        'test-text',
        'test a text file',
        (TEST, 'det.py', 'note.pth'),
        'note.pth',
        prepare=checkpoint(text_file),
    ),
    line(
        'test-missing',
        'test a checkpoint that is not there',
        (TEST, 'det.py', 'nothing.pth'),
        "no file 'nothing.pth'",
    ),
    line(
        'test-plain',
        "test a plain model's checkpoint with a distiller's config",
        (TEST, 'det.py', 'member.pth'),
        'a checkpoint without members',
        prepare=checkpoint(save_member),
    ),
    line(
        'test-other-members',
        'test a checkpoint with other members',
        (TEST, 'config.py', 'BASE/work/epoch_1.pth'),
        'holds members',
        "'student3'",
        prepare=lambda f, s: (f / 'config.py').write_text(
            "_base_ = './det.py'\nmodel = dict(members=dict(student3=dict(config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', "
            "options={'bbox_head.num_classes': 1})))\n"
        ),
    ),
    line(
        'test-other-net',
        'test a checkpoint of other networks',
        (TEST, 'seg.py', 'BASE/work/epoch_1.pth'),
        'does not fit',
        'teacher',
    ),
    line(
        'resume-missing',
        'resume from a checkpoint that is not there',
        (TRAIN, 'det.py', '--resume', 'nothing.pth'),
        '--resume',
        "no file 'nothing.pth'",
    ),
    line(
        'resume-evil',
        'resume from a checkpoint that would run code',
        (TRAIN, 'det.py', '--resume', 'evil.pth'),
        '--resume',
        'it is not loaded',
        prepare=checkpoint(evil),
    ),
    line(
        'resume-plain',
        'resume from a plain checkpoint',
        (TRAIN, 'det.py', '--resume', 'member.pth'),
        '--resume',
        'member.pth',
        prepare=checkpoint(save_member),
    ),
    line(
        'resume-empty',
        'resume in an empty work folder',
        (TRAIN, 'det.py', '--resume'),
        'no checkpoint in work, starting anew',
        works=True,
    ),
    line(
        'export-evil',
        'export from a checkpoint that would run code',
        (EXPORT, 'evil.pth', 'student1', 'out/s.pth'),
        'it is not loaded',
        prepare=checkpoint(evil),
    ),
    line(
        'export-member',
        'export an unknown member',
        (EXPORT, 'BASE/work/epoch_1.pth', 'studnt1', 'out/s.pth'),
        'member',
        "did you mean 'student1'",
    ),
    line(
        'infer-folder',
        'predict on a folder without images',
        (INFER, 'BASE/work/epoch_1.pth', 'empty', '--out', 'out'),
        'INPUT: empty: a folder without images',
        prepare=lambda f, s: (f / 'empty').mkdir(),
    ),
    line(
        'infer-video',
        'predict on a video that cannot be read',
        (INFER, 'BASE/work/epoch_1.pth', 'x.mp4', '--out', 'out'),
        'x.mp4: this OpenCV cannot read the video',
        'ffmpeg -i IN',
        prepare=lambda f, s: (f / 'x.mp4').write_bytes(b'no video'),
    ),
    line(
        'infer-camera',
        'predict on a camera that is not there',
        (INFER, 'BASE/work/epoch_1.pth', 'camera:93', '--out', 'out'),
        'there is no camera 93',
    ),
    line(
        'infer-member',
        'predict with an unknown member',
        (
            INFER,
            'BASE/work/epoch_1.pth',
            'BASE/data/images/val',
            '--out',
            'out',
            '--member',
            'stdent1',
        ),
        "did you mean 'student1'",
    ),
    line(
        'onnx-out',
        'ONNX into another kind of file',
        (ONNX, 'BASE/work/epoch_1.pth', 'out.pth'),
        'OUT: expected a path that ends in .onnx',
    ),
    line(
        'onnx-temperature',
        'ONNX with a temperature of a file that is not there',
        (ONNX, 'BASE/work/epoch_1.pth', 'out.onnx', '--temperature', 't.json'),
        "--temperature: 't.json'",
        'tools/calibrate.py',
    ),
    line(
        'calibrate-config',
        'calibrate with the config of another model',
        ('tools/calibrate.py', 'BASE/work/epoch_1.pth', '--config', 'seg.py'),
        'does not fit the network',
    ),
    line(
        'export-plain',
        'export from a plain checkpoint',
        (EXPORT, 'member.pth', 'student1', 'out/s.pth'),
        '--config',
        prepare=checkpoint(save_member),
    ),
]


# ------------------------------------------------------------------ command lines
def blocked(folder, shared):
    """A file where an output folder would have to be."""
    (folder / 'taken').write_text('')


def pictures(folder, shared):
    shutil.copytree(shared / 'data', folder / 'data')


LINES = [
    line(
        'train-nothing',
        'train without arguments',
        (TRAIN,),
        'the following arguments are required: config',
    ),
    line(
        'train-config',
        'train a config that is not there',
        (TRAIN, 'nothing.py'),
        "no config file 'nothing.py'",
    ),
    line('train-folder', 'train a folder', (TRAIN, '.'), "no config file '.'"),
    line(
        'train-suffix',
        'train a text file',
        (TRAIN, 'note.txt'),
        'note.txt',
        prepare=lambda f, s: (f / 'note.txt').write_text('x'),
    ),
    line(
        'train-argument',
        'unknown argument of train',
        (TRAIN, 'det.py', '--workdir', 'x'),
        '--workdir',
    ),
    line(
        'train-launcher',
        'unknown launcher',
        (TRAIN, 'det.py', '--launcher', 'torchrun'),
        "invalid choice: 'torchrun'",
    ),
    line(
        'train-launcher-alone',
        'launcher without its environment',
        (TRAIN, 'det.py', '--launcher', 'pytorch'),
        '--launcher',
        'dist_train.sh',
    ),
    line(
        'train-slurm-alone',
        'Slurm launcher outside a job',
        (TRAIN, 'det.py', '--launcher', 'slurm'),
        '--launcher',
        'slurm_train.sh',
    ),
    line(
        'train-options',
        '--cfg-options without =',
        (TRAIN, 'det.py', '--cfg-options', 'train_cfg.max_epochs'),
        '--cfg-options',
        'train_cfg.max_epochs',
    ),
    line(
        'train-options-index',
        '--cfg-options into a list by name',
        (TRAIN, 'det.py', '--cfg-options', 'custom_hooks.first.a=1'),
        '--cfg-options',
        'custom_hooks.first',
    ),
    line(
        'train-options-value',
        '--cfg-options with a wrong value',
        (TRAIN, 'det.py', '--cfg-options', 'model.sharing.tau=-1'),
        'tau',
        '-1',
    ),
    line(
        'train-work-dir',
        'work folder that is a file',
        (TRAIN, 'det.py', '--work-dir', 'taken'),
        'taken: File exists (a folder is to be made there)',
        prepare=blocked,
    ),
    line(
        'train-scale',
        '--auto-scale-lr without base_batch_size',
        (TRAIN, 'config.py', '--auto-scale-lr'),
        'auto_scale_lr.base_batch_size',
        prepare=lambda f, s: (f / 'config.py').write_text(
            "_base_ = './det.py'\nauto_scale_lr = dict(_delete_=True)\n"
        ),
    ),
    line(
        'test-nothing',
        'test without checkpoint',
        (TEST, 'det.py'),
        'the following arguments are required: checkpoint',
    ),
    line(
        'test-member',
        'test an unknown member',
        (TEST, 'det.py', 'BASE/work/epoch_1.pth', '--member', 'studnt1'),
        '--member',
        "did you mean 'student1'",
    ),
    line(
        'test-out',
        '--out that is no pickle',
        (TEST, 'det.py', 'BASE/work/epoch_1.pth', '--out', 'x.json'),
        '--out',
        '.pkl',
    ),
    line(
        'test-tta',
        '--tta without tta_pipeline',
        (TEST, 'det.py', 'BASE/work/epoch_1.pth', '--tta'),
        '--tta',
        'tta_model',
    ),
    line(
        'export-nothing',
        'export without arguments',
        (EXPORT,),
        'the following arguments are required',
    ),
    line(
        'export-suffix',
        'export to another suffix',
        (EXPORT, 'BASE/work/epoch_1.pth', 'student1', 'x.onnx'),
        '.pth',
        'x.onnx',
    ),
    line(
        'export-blocked',
        'export below a file',
        (EXPORT, 'BASE/work/epoch_1.pth', 'student1', 'taken/s.pth'),
        'taken: File exists',
        prepare=blocked,
    ),
    line(
        'export-config',
        'export with a config that is not there',
        (EXPORT, 'BASE/work/epoch_1.pth', 'student1', 'x.pth', '--config', 'no.py'),
        '--config',
        "no file 'no.py'",
    ),
    line('report-nothing', 'report without arguments', ('tools/report.py',), 'work_dir'),
    line(
        'report-missing',
        'report on a folder that is not there',
        ('tools/report.py', 'nowhere'),
        "'nowhere'",
    ),
    line(
        'report-empty',
        'report on a folder without checkpoint',
        ('tools/report.py', '.'),
        'no checkpoint',
    ),
    line(
        'report-images',
        'report with 0 images',
        ('tools/report.py', 'BASE/work', '--images', '0'),
        '--images',
        '0',
    ),
    line(
        'visualize-out',
        'visualize without --out',
        ('tools/visualize.py', 'det.py', 'x.pth'),
        '--out',
    ),
    line(
        'visualize-index',
        'visualize an image that is not there',
        ('tools/visualize.py', 'det.py', 'BASE/work/epoch_1.pth', '--out', 'v', '--indices', '99'),
        '--indices',
        '99',
    ),
    line(
        'visualize-name',
        'visualize an unknown file',
        (
            'tools/visualize.py',
            'det.py',
            'BASE/work/epoch_1.pth',
            '--out',
            'v',
            '--names',
            '0000.png',
        ),
        '--names',
        'did you mean',
        "'0000.png'",
    ),
    line(
        'visualize-blocked',
        'visualize into a file',
        ('tools/visualize.py', 'det.py', 'BASE/work/epoch_1.pth', '--out', 'taken'),
        'taken',
        prepare=blocked,
    ),
    line(
        'benchmark-config',
        'benchmark of a config that is not there',
        ('tools/benchmark.py', 'no.py'),
        "'no.py'",
    ),
    line(
        'benchmark-steps',
        'benchmark of 0 steps',
        ('tools/benchmark.py', 'det.py', '--steps', '0'),
        '--steps',
        '0',
    ),
    line(
        'study-command',
        'study without run, status or report',
        ('tools/study.py', 'det.py'),
        'invalid choice',
        'run',
    ),
    line(
        'study-plan',
        'study of a plan that is not there',
        ('tools/study.py', 'run', 'no.py'),
        "'no.py'",
    ),
    line(
        'study-config',
        'study of a config in place of a plan',
        ('tools/study.py', 'run', 'det.py'),
        'det.py: key: unknown name',
        'valid: title, config',
    ),
    line(
        'polyp-nothing',
        'convert_polyp without arguments',
        ('tools/convert_polyp.py',),
        'arguments are required: PATH',
    ),
    line(
        'polyp-missing',
        'convert_polyp of a folder that is not there',
        ('tools/convert_polyp.py', 'no', 'no', 'out'),
        "IMAGES: no folder 'no'",
    ),
    line(
        'polyp-out',
        'convert_polyp into a folder that is there',
        ('tools/convert_polyp.py', 'BASE/data/images/train', 'BASE/data/masks/train', 'data'),
        'is there already',
        prepare=pictures,
    ),
    line(
        'polyp-blocked',
        'convert_polyp below a file',
        ('tools/convert_polyp.py', 'BASE/data/images/train', 'BASE/data/masks/train', 'taken/set'),
        'taken',
        prepare=blocked,
    ),
    line(
        'polyp-split',
        'convert_polyp with a wrong split',
        (
            'tools/convert_polyp.py',
            'BASE/data/images/train',
            'BASE/data/masks/train',
            'out',
            '--split',
            'trian=x.txt',
        ),
        '--split',
        "did you mean 'train'",
    ),
    line(
        'polyp-ratio',
        'convert_polyp with a ratio of 2',
        (
            'tools/convert_polyp.py',
            'BASE/data/images/train',
            'BASE/data/masks/train',
            'out',
            '--train-ratio',
            '2',
        ),
        '--train-ratio',
        '2',
    ),
    line(
        'tiles-class',
        'convert_tiles without the class folders',
        ('tools/convert_tiles.py', 'BASE/data/images', 'out'),
        '--classes',
        "'MSS'",
    ),
    line(
        'tiles-missing',
        'convert_tiles of a folder that is not there',
        ('tools/convert_tiles.py', 'no', 'out'),
        "FOLDER: no folder 'no'",
    ),
    line(
        'synthetic-out',
        'make_synthetic over another folder',
        ('tools/make_synthetic.py', '--out', 'data', '--train', '2', '--val', '2'),
        'data',
        prepare=pictures,
    ),
    line(
        'synthetic-size',
        'make_synthetic of 1 px',
        ('tools/make_synthetic.py', '--out', 'new', '--size', '1'),
        'size',
        '1',
    ),
    line(
        'synthetic-number',
        'make_synthetic with a word for a number',
        ('tools/make_synthetic.py', '--train', 'many'),
        "invalid int value: 'many'",
    ),
    line('doctor-argument', 'doctor with an argument', ('tools/doctor.py', '--fix'), '--fix'),
    line(
        'build-version',
        'build_mmcv without a version',
        ('tools/build_mmcv.py', 'onedl-mmcv'),
        'names no version',
    ),
    line(
        'pairs-name',
        'detector_pairs with an unknown detector',
        ('tools/detector_pairs.py', '--detectors', 'YOLO'),
        '--detectors',
        "'YOLOX'",
    ),
    line(
        'pairs-steps',
        'detector_pairs with steps below 0',
        ('tools/detector_pairs.py', '--steps', '-1'),
        '--steps',
        '-1',
    ),
    line(
        'gpu-study-minutes',
        'gpu_study.sh without time',
        ('tools/gpu_study.sh', '--minutes', '0'),
        '--minutes',
        "'0'",
    ),
    line(
        'gpu-study-plan',
        'gpu_study.sh with a plan that is not there',
        ('tools/gpu_study.sh', '--dry-run', 'plans/none.py'),
        'plans/none.py',
    ),
    line(
        'gpu-check-wheels',
        'gpu_check.sh with a folder of packages that is not there',
        ('tools/gpu_check.sh', '--wheels', 'none'),
        '--wheels',
        "'none'",
    ),
    line(
        'dist-train',
        'dist_train.sh without the number of processes',
        ('tools/dist_train.sh', 'det.py'),
        'CONFIG PROCESSES',
    ),
    line(
        'dist-train-word',
        'dist_train.sh with a word for a number',
        ('tools/dist_train.sh', 'det.py', 'two'),
        'PROCESSES',
        "'two'",
    ),
    line(
        'dist-test',
        'dist_test.sh without checkpoint',
        ('tools/dist_test.sh', 'det.py'),
        'CONFIG CHECKPOINT PROCESSES',
    ),
    line(
        'slurm-train',
        'slurm_train.sh without work folder',
        ('tools/slurm_train.sh', 'gpu', 'job', 'det.py'),
        'PARTITION JOB CONFIG WORK_DIR',
    ),
    line(
        'slurm-test',
        'slurm_test.sh without checkpoint',
        ('tools/slurm_test.sh', 'gpu', 'job', 'det.py'),
        'PARTITION JOB CONFIG CHECKPOINT',
    ),
    line(
        'slurm-job',
        'slurm_job.sh without work folder',
        ('tools/slurm_job.sh', 'det.py'),
        'CONFIG WORK_DIR',
    ),
]
CASES = CONFIGS + DATA + CHECKPOINTS + LINES
assert len({case.id for case in CASES}) == len(CASES)
