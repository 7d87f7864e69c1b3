# Kvasir-SEG's boxes at 96 px for studies: 900 training images, the 100 of PraNet's test list as
# `val`. Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir \
#           --split train=TRAIN.txt --split val=TEST.txt
_base_ = ['../../_base_/schedules/adamw_100e.py', '../../_base_/default_runtime.py']
_scale = (96, 96)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=_scale, ratio_range=(0.8, 1.3), keep_ratio=False),
    dict(type='RandomCrop', crop_size=_scale, allow_negative_crop=True),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=_scale, pad_val=dict(img=(127, 127, 127))),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackDetInputs'),
]
unlabeled_pipeline = [  # the weak view; boxes are not read
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackDetInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_scale, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_images = dict(
    type='mmkd.PolypDetection',
    data_root='data/kvasir/',
    ann_file='annotations/train.json',
    data_prefix=dict(img='images/train/'),
    filter_cfg=dict(filter_empty_gt=False),
    pipeline=train_pipeline,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=train_images,
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        train_images,
        ann_file='annotations/val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='mmkd.PolypDetMetric', ann_file='data/kvasir/annotations/val.json'),
    dict(type='CocoMetric', ann_file='data/kvasir/annotations/val.json', metric='bbox'),
]
test_evaluator = val_evaluator
# A study keeps figures: one checkpoint at the end, none of the best.
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=1000, save_last=True, save_best=None)
)
custom_hooks = [dict(type='mmkd.MemberHook'), dict(type='mmkd.PreemptionHook')]
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=10))
