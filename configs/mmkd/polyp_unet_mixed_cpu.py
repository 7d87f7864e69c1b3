# Mixed sharing on Kvasir-SEG for two CPU cores: narrow U-Nets of four stages at 96 px, 20 epochs
# from scratch.
_base_ = './polyp_unet_mixed.py'
_scale = (96, 96)
_stages = {
    'backbone.norm_cfg.type': 'BN',
    'backbone.num_stages': 4,
    'backbone.strides': (2, 1, 1, 1),
    'backbone.enc_num_convs': (2, 2, 2, 2),
    'backbone.dec_num_convs': (2, 2, 2),
    'backbone.downsamples': (True, True, True),
    'backbone.enc_dilations': (1, 1, 1, 1),
    'backbone.dec_dilations': (1, 1, 1),
    'decode_head.norm_cfg.type': 'BN',
    'decode_head.in_index': 3,
    'auxiliary_head': None,
    'decode_head.init_cfg': dict(type='Normal', std=0.3, override=dict(name='conv_seg')),
    'test_cfg.mode': 'whole',
}
_teacher = dict(
    _stages,
    **{'backbone.base_channels': 24, 'decode_head.in_channels': 24, 'decode_head.channels': 24},
)
_student = dict(
    _stages,
    **{'backbone.base_channels': 8, 'decode_head.in_channels': 8, 'decode_head.channels': 8},
)
model = dict(
    data_preprocessor=dict(size=_scale),
    members=dict(
        teacher=dict(options=dict(_teacher, _delete_=True)),
        student1=dict(options=dict(_student, _delete_=True)),
        student2=dict(options=dict(_student, _delete_=True)),
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='Resize', scale=_scale, keep_ratio=False
    ),  # first: the rest costs less on small images
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
train_cfg = dict(max_epochs=20, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=20, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=16)
