# Two narrow U-Nets from scratch on Kvasir-SEG at 96 px, and a frozen teacher with an ImageNet
# encoder
# (docs/studies/kvasir_kd). The teacher first:
#   python tools/train.py configs/mmkd/studies/kvasir_teacher_96.py --work-dir
# work_dirs/studies/kvasir_teacher
_base_ = './kvasir_teacher_96.py'
_epochs = 12
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
        teacher=dict(
            training='frozen', seed=None, checkpoint='work_dirs/studies/kvasir_teacher/epoch_16.pth'
        ),
        student1=dict(config=_unet),
        student2=dict(config=_unet),
    ),
    # Predictions only, as in arXiv 2110.11023; shares of the task's gradient in place of weights.
    sharing=dict(
        type='individual',
        tau=2.0,
        weight=dict(type='GradientShare', share=0.5),
        schedule=dict(type='Trapezoid', warmup=0.05, decay=0.1),
    ),
    ensemble=dict(members=['student1', 'student2']),
)
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
