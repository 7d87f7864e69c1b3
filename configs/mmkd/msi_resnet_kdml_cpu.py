# KDML between CIFAR-style ResNets for two CPU cores, 8 epochs; Tiny-ImageNet-20 (64 px, read at
# 32) stands in for tiles.
# Data: data/tinyimagenet20/{train,val}/<class>/*
_base_ = './msi_resnet_kdml.py'
data_root = 'data/tinyimagenet20/'
_cifar = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
_twenty = {'head.num_classes': 20, 'head.topk': (1,), 'data_preprocessor.num_classes': 20}
_student = dict(
    _twenty, **{'backbone.base_channels': 8, 'backbone.stem_channels': 8, 'head.in_channels': 64}
)
_teacher = dict(
    _twenty, **{'backbone.base_channels': 16, 'backbone.stem_channels': 16, 'head.in_channels': 128}
)
model = dict(
    members=dict(
        teacher=dict(config=_cifar, options=dict(_teacher, _delete_=True)),
        student1=dict(config=_cifar, options=dict(_student, _delete_=True)),
        student2=dict(config=_cifar, options=dict(_student, _delete_=True)),
    )
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=32),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=32),
    dict(type='PackInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=32),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        data_prefix='train',
        ann_file='',
        metainfo=None,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        data_root=data_root, data_prefix='val', ann_file='', metainfo=None, pipeline=val_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='Accuracy', topk=(1,))]
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=8, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=8, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
