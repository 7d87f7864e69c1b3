_cifar = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
_classes = dict(
    _delete_=True, classes=(
        'no polyp',
        'polyp',
    ))
_narrow = dict({
    'backbone.base_channels': 2,
    'backbone.stem_channels': 2,
    'head.in_channels': 16
})
_student = dict({
    'backbone.base_channels': 8,
    'backbone.stem_channels': 8,
    'data_preprocessor.num_classes': 20,
    'head.in_channels': 64,
    'head.num_classes': 20,
    'head.topk': (1, )
})
_teacher = dict({
    'backbone.base_channels': 16,
    'backbone.stem_channels': 16,
    'data_preprocessor.num_classes': 20,
    'head.in_channels': 128,
    'head.num_classes': 20,
    'head.topk': (1, )
})
_twenty = dict({
    'data_preprocessor.num_classes': 20,
    'head.num_classes': 20,
    'head.topk': (1, )
})
_two = dict({
    'data_preprocessor.num_classes': 2,
    'head.num_classes': 2,
    'head.topk': (1, )
})
auto_scale_lr = dict(base_batch_size=16, enable=False)
custom_hooks = [
    dict(type='mmkd.MemberHook'),
    dict(type='mmkd.PreemptionHook'),
    dict(type='mmkd.UnreadableHook'),
    dict(metric='accuracy/top1', type='mmkd.BestMemberHook'),
]
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mmkd',
    ])
data_root = 'data/synthetic_polyps/'
default_hooks = dict(
    checkpoint=dict(
        interval=1,
        max_keep_ckpts=2,
        rule='greater',
        save_best='ensemble/accuracy/top1',
        type='mmkd.SafeCheckpointHook'),
    logger=dict(interval=20, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(type='VisualizationHook'))
default_scope = 'mmpretrain'
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
launcher = 'none'
load_from = None
log_level = 'INFO'
log_processor = dict(
    by_epoch=True, type='mmkd.MemberLogProcessor', window_size=20)
model = dict(
    data_preprocessor=dict(
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        std=[
            58.395,
            57.12,
            57.375,
        ],
        to_rgb=True,
        type='ClsDataPreprocessor'),
    ensemble=dict(members=[
        'student1',
        'student2',
    ]),
    members=dict(
        average=dict(momentum=0.1, of='student1', training='ema'),
        student1=dict(
            config='mmpretrain::resnet/resnet18_8xb16_cifar10.py',
            options=dict({
                'backbone.base_channels': 2,
                'backbone.dilations': [
                    1,
                ],
                'backbone.num_stages': 1,
                'backbone.out_indices': [
                    0,
                ],
                'backbone.stem_channels': 2,
                'backbone.strides': [
                    1,
                ],
                'data_preprocessor.num_classes': 2,
                'head.in_channels': 2,
                'head.num_classes': 2,
                'head.topk': (1, )
            }),
            seed=1),
        student2=dict(
            config='mmpretrain::resnet/resnet18_8xb16_cifar10.py',
            options=dict({
                'backbone.base_channels': 2,
                'backbone.dilations': [
                    1,
                ],
                'backbone.num_stages': 1,
                'backbone.out_indices': [
                    0,
                ],
                'backbone.stem_channels': 2,
                'backbone.strides': [
                    1,
                ],
                'data_preprocessor.num_classes': 2,
                'head.in_channels': 2,
                'head.num_classes': 2,
                'head.topk': (1, )
            }),
            seed=2),
        teacher=dict(
            config='mmpretrain::resnet/resnet18_8xb16_cifar10.py',
            options=dict({
                'backbone.base_channels': 3,
                'backbone.dilations': [
                    1,
                ],
                'backbone.num_stages': 1,
                'backbone.out_indices': [
                    0,
                ],
                'backbone.stem_channels': 3,
                'backbone.strides': [
                    1,
                ],
                'data_preprocessor.num_classes': 2,
                'head.in_channels': 3,
                'head.num_classes': 2,
                'head.topk': (1, )
            }),
            seed=0)),
    sharing=dict(
        schedule=dict(end=0.3, type='SigmoidRamp'),
        feature=dict(type='FeatureMSE'),
        feature_weight=1.0,
        tau=2.0,
        type='kdml_mixed_full'),
    type='mmkd.OnlineDistiller')
optim_wrapper = dict(
    clip_grad=dict(max_norm=35, norm_type=2),
    constructor='mmkd.MemberOptimWrapperConstructor',
    optimizer=dict(lr=0.01, type='SGD', weight_decay=0.0),
    paramwise_cfg=dict(
        bias_decay_mult=0, bypass_duplicate=True, norm_decay_mult=0),
    type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=30, start_factor=0.01, type='LinearLR'),
    dict(
        T_max=20,
        by_epoch=True,
        convert_to_iter_based=True,
        eta_min=1e-05,
        type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
resume = False
test_cfg = dict(type='mmkd.MemberTestLoop')
test_dataloader = dict(
    batch_size=64,
    dataset=dict(
        ann_file='labels/val.txt',
        data_prefix='images/val',
        data_root='data/synthetic_polyps/',
        metainfo=dict(classes=(
            'no polyp',
            'polyp',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(scale=64, type='Resize'),
            dict(type='PackInputs'),
        ],
        type='mmkd.FolderClassification'),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = [
    dict(topk=(1, ), type='Accuracy'),
    dict(positive=1, type='mmkd.BinaryClassification'),
]
train_cfg = dict(max_epochs=1, type='mmkd.ResumableTrainLoop', val_interval=1)
train_dataloader = dict(
    batch_size=6,
    dataset=dict(
        dataset=dict(
            ann_file='labels/train.txt',
            classes=(
                'no polyp',
                'polyp',
            ),
            data_prefix='images/train',
            data_root='data/synthetic_polyps/',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(scale=64, type='Resize'),
                dict(prob=0.5, type='RandomFlip'),
                dict(direction='vertical', prob=0.5, type='RandomFlip'),
                dict(type='PackInputs'),
            ],
            type='mmkd.FolderClassification'),
        oversample_thr=0.85,
        type='ClassBalancedDataset'),
    drop_last=True,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=True, type='DefaultSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(scale=64, type='Resize'),
    dict(prob=0.5, type='RandomFlip'),
    dict(direction='vertical', prob=0.5, type='RandomFlip'),
    dict(type='PackInputs'),
]
tta_model = dict(type='AverageClsScoreTTA')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(scale=64, type='Resize'),
    dict(
        transforms=[
            [
                dict(prob=0.0, type='RandomFlip'),
                dict(prob=1.0, type='RandomFlip'),
            ],
            [
                dict(type='PackInputs'),
            ],
        ],
        type='TestTimeAug'),
]
val_cfg = dict(type='mmkd.MemberValLoop')
val_dataloader = dict(
    batch_size=64,
    dataset=dict(
        ann_file='labels/val.txt',
        data_prefix='images/val',
        data_root='data/synthetic_polyps/',
        metainfo=dict(classes=(
            'no polyp',
            'polyp',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(scale=64, type='Resize'),
            dict(type='PackInputs'),
        ],
        type='mmkd.FolderClassification'),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = [
    dict(topk=(1, ), type='Accuracy'),
    dict(positive=1, type='mmkd.BinaryClassification'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(scale=64, type='Resize'),
    dict(type='PackInputs'),
]
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='UniversalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
work_dir = 'work_dirs/stage1'
