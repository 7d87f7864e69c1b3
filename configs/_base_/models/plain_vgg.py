# Plain networks of 5 layers (4 convolutions, 1 linear) and of 11 (10 and 1) for 32 px, and how the
# one is guided by the other: by the outputs of their third stages, 256 channels each, of which the
# student's last quarter is self-taught.
plain_student = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VGG',
        depth=11,
        num_stages=3,
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_cfg=dict(type='BN'),
        num_classes=-1,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=256,
        loss=dict(type='CrossEntropyLoss'),
        topk=(1,),
    ),
)
plain_teacher = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VGG', depth=13, out_indices=(2, 4), norm_cfg=dict(type='BN'), num_classes=-1
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss'),
        topk=(1,),
    ),
)
_guided = dict(type='ChannelSplit', part='inherit', ratio=0.75)
guidance = [
    dict(
        source='teacher',
        target='student1',
        tap='backbone[0]',
        name='channel',
        weight=2.0,
        loss=dict(type='ChannelCorrelation'),
        connector=[_guided, dict(type='ConvConnector')],
    ),
    dict(
        source='teacher',
        target='student1',
        tap='backbone[0]',
        name='spatial',
        weight=2.0,
        loss=dict(type='SpatialCorrelation'),
        connector=_guided,
    ),
]
