# Mixed sharing for polyp segmentation: a U-Net teacher and two narrow U-Net students, 256 px.
_unet = 'mmseg::unet/unet-s5-d16_fcn_4xb4-ce-1.0-dice-3.0-40k_drive-64x64.py'
# mmseg's 0.01 lets AdamW align both classes' rows at first: narrow networks then stay at 'all
# background' for long.
_init = {'decode_head.init_cfg': dict(type='Normal', std=0.3, override=dict(name='conv_seg'))}
_narrow = {
    'backbone.base_channels': 16,
    'decode_head.in_channels': 16,
    'decode_head.channels': 16,
    'auxiliary_head.in_channels': 32,
    'auxiliary_head.channels': 16,
    'test_cfg.mode': 'whole',
    **_init,
}
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size=(256, 256),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        seg_pad_val=255,
    ),
    members=dict(
        teacher=dict(config=_unet, options={'test_cfg.mode': 'whole', **_init}, seed=0),
        student1=dict(config=_unet, options=_narrow, seed=1),
        student2=dict(config=_unet, options=_narrow, seed=2),
    ),
    sharing=dict(type='kdml_mixed_complement', schedule=dict(type='SigmoidRamp', end=0.3)),
    ensemble=dict(members=['student1', 'student2']),
)
