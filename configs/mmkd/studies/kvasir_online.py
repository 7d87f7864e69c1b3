# A teacher with an ImageNet encoder and two narrow U-Nets from scratch, all trained together on 10 % of Kvasir-SEG's labels,
# at 96 px; the other images may be used without labels (docs/studies/kvasir_online).
_base_ = './kvasir_unlabeled.py'
_epochs = 55  # of 11 iterations
_unet = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='UNet',
        base_channels=8,
        num_stages=4,
        strides=(2, 1, 1, 1),
        enc_num_convs=(2, 2, 2, 2),
        dec_num_convs=(2, 2, 2),
        downsamples=(True, True, True),
        enc_dilations=(1, 1, 1, 1),
        dec_dilations=(1, 1, 1),
        norm_cfg=dict(type='BN'),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=8,
        in_index=3,
        channels=8,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        init_cfg=dict(type='Normal', std=0.3, override=dict(name='conv_seg')),
        loss_decode=_base_.polyp_losses,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
model = dict(
    members=dict(
        teacher=dict(config=_base_.lite0_fpn),
        student1=dict(config=dict(_delete_=True, **_unet)),
        student2=dict(config=dict(_delete_=True, **_unet)),
    ),
    sharing=dict(
        _delete_=True,
        type='individual',
        tau=1.0,
        schedule=dict(type='Trapezoid', begin=0.1, warmup=0.2, decay=0.0),
    ),
    strong_view=dict(type='StrongView', cutmix=0.5),
)
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
optim_wrapper = dict(optimizer=dict(lr=4e-3), members=dict(teacher=dict(optimizer=dict(lr=1e-3))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
