# Kvasir-SEG at 128 px for studies: 900 training images, the 100 of PraNet's test list as `val`.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir \
#           --split train=TRAIN.txt --split val=TEST.txt
_base_ = ['../../_base_/schedules/adamw_100e.py', '../../_base_/segmentation_runtime.py']
_scale = (128, 128)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=_scale, ratio_range=(0.8, 1.3), keep_ratio=False),
    dict(type='RandomCrop', crop_size=_scale),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
unlabeled_pipeline = [  # the weak view; label maps are not read
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackSegInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_scale, keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_images = dict(
    type='mmkd.PolypSegmentation',
    data_root='data/kvasir/',
    data_prefix=dict(img_path='images/train', seg_map_path='masks/train'),
    img_suffix='.jpg',
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
        data_prefix=dict(img_path='images/val', seg_map_path='masks/val'),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
# mmseg's stays when a member is exported.
val_evaluator = [
    dict(type='mmkd.PolypSegMetric'),
    dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice']),
]
test_evaluator = val_evaluator
# A study keeps figures: one checkpoint at the end, none of the best.
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=1000, save_last=True, save_best=None)
)
custom_hooks = [dict(type='mmkd.MemberHook'), dict(type='mmkd.PreemptionHook')]
