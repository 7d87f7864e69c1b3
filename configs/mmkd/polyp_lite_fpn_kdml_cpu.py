# KDML with EfficientNet-Lite on Kvasir-SEG for two CPU cores: at 96 px, 12 epochs for the teacher,
# then 12 epochs for the students.
_base_ = './polyp_lite_fpn_kdml.py'
_scale = (96, 96)
model = dict(data_preprocessor=dict(size=_scale))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=_scale, ratio_range=(0.8, 1.3), keep_ratio=False),
    dict(type='RandomCrop', crop_size=_scale),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_scale, keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=_scale, keep_ratio=False)],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=12, eta_min=5e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=16)
