# Polyp boxes in COCO form, as tools/convert_polyp.py writes them.
# Another size in an inheriting config: see synthetic_detection.py. On the command line, for all
# three loaders: --cfg-options "train_dataloader.dataset.pipeline.4.scale=(320,320)"
# "val_dataloader.dataset.pipeline.1.scale=(320,320)"
# "test_dataloader.dataset.pipeline.1.scale=(320,320)"
data_root = 'data/kvasir/'
_scale = (416, 416)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='YOLOXHSVRandomAug'),  # before RandomFlip: OpenCV refuses the flipped view
    dict(
        type='RandomAffine',
        max_rotate_degree=10,
        max_shear_degree=0,
        scaling_ratio_range=(0.8, 1.2),
        max_translate_ratio=0.1,
        border_val=(114, 114, 114),
    ),
    dict(type='Resize', scale=_scale, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_scale, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
# For small networks on CPUs.
_small = (160, 160)
small_train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='Resize', scale=_small, keep_ratio=True
    ),  # first: the rest costs less on small images
    dict(type='Pad', size=_small, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackDetInputs'),
]
small_val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_small, keep_ratio=True),
    dict(type='Pad', size=_small, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmkd.PolypDetection',
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/train/'),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmkd.PolypDetection',
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='images/val/'),
        test_mode=True,
        pipeline=val_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/val.json', metric='bbox')
test_evaluator = val_evaluator
