# KDML between CIFAR-style ResNets on the built-in synthetic frames, with or without a polyp, for
# two CPU cores.
# Data: python tools/make_synthetic.py
_base_ = './msi_resnet_kdml_cpu.py'
data_root = 'data/synthetic_polyps/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=64),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=64),
    dict(type='PackInputs'),
]
_two = {'head.num_classes': 2, 'data_preprocessor.num_classes': 2}
model = dict(
    members=dict(
        teacher=dict(options=_two), student1=dict(options=_two), student2=dict(options=_two)
    )
)
_classes = dict(classes=('no polyp', 'polyp'), _delete_=True)
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=64),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='ClassBalancedDataset',  # frames without a polyp are few
        oversample_thr=0.85,
        dataset=dict(
            type='mmkd.FolderClassification',
            data_root=data_root,
            data_prefix='images/train',
            ann_file='labels/train.txt',
            classes=('no polyp', 'polyp'),
            pipeline=train_pipeline,
        ),
        _delete_=True,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        data_prefix='images/val',
        ann_file='labels/val.txt',
        metainfo=_classes,
        pipeline=val_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy', topk=(1,)),
    dict(type='mmkd.BinaryClassification', positive=1),
]
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=20, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=5e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR', T_max=20, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=16)
