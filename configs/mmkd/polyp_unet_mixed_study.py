# What tools/study.py trains many times: polyp_unet_mixed_cpu.py at 64 px, 8 epochs, without
# vertical flips and colour changes.
_base_ = './polyp_unet_mixed_cpu.py'
_scale = (64, 64)
model = dict(
    data_preprocessor=dict(size=_scale),
    members=dict(
        teacher=dict(
            options={
                'backbone.base_channels': 16,
                'decode_head.in_channels': 16,
                'decode_head.channels': 16,
            }
        )
    ),
    # As the paper has it: a distance of normalized maps at a fixed weight.
    sharing=dict(feature=dict(type='FeatureMSE'), feature_weight=1.0),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=_scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_scale, keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=8, val_interval=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=8, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
