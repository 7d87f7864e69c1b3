# KDML (arXiv 2110.11023) for MSI against MSS tiles: a ResNet-50 teacher and two ResNet-18
# students, on a GPU.
# The networks start from ImageNet with `checkpoint=...` (see docs/concepts.md). Data: python
# tools/convert_tiles.py FOLDER data/msi
_base_ = [
    '../_base_/datasets/msi_classification.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/classification_runtime.py',
]
_two = {'head.num_classes': 2, 'head.topk': (1,)}
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    members=dict(
        teacher=dict(config='mmpretrain::resnet/resnet50_8xb32_in1k.py', options=_two, seed=0),
        student1=dict(config='mmpretrain::resnet/resnet18_8xb32_in1k.py', options=_two, seed=1),
        student2=dict(config='mmpretrain::resnet/resnet18_8xb32_in1k.py', options=_two, seed=2),
    ),
    sharing=dict(type='kdml_p', tau=2.0, schedule=dict(type='SigmoidRamp', end=0.3)),
    ensemble=dict(members=['student1', 'student2']),
)
train_cfg = dict(max_epochs=30, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR', T_max=30, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(optimizer=dict(lr=3e-4))
auto_scale_lr = dict(base_batch_size=64)
