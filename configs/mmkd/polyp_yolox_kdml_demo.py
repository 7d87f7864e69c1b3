# KDML on the built-in synthetic set: learns to find polyps in about four minutes on two CPU cores.
# Data: python tools/make_synthetic.py
_base_ = './polyp_yolox_kdml_cpu.py'
data_root = 'data/synthetic_polyps/'
_scale = (96, 96)
# In so short a training batch norm's running statistics lag behind the weights, and with them the
# mAP of a validation jumps from machine to machine; group norm has none.
_gn = dict(_delete_=True, type='GN', num_groups=8)
_norm = {'backbone.norm_cfg': _gn, 'neck.norm_cfg': _gn, 'bbox_head.norm_cfg': _gn}
model = dict(
    members=dict(
        teacher=dict(options=_norm),
        student1=dict(options=_norm),
        student2=dict(options=_norm),
    )
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackDetInputs'),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='RepeatDataset',
        times=2,
        _delete_=True,
        dataset=dict(
            type='mmkd.PolypDetection',
            data_root=data_root,
            ann_file='annotations/train.json',
            data_prefix=dict(img='images/train/'),
            filter_cfg=dict(filter_empty_gt=False),
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, pipeline=val_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=4, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR', T_max=4, eta_min=5e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
# Too short for YOLOX's last phase.
custom_hooks = [hook for hook in _base_.custom_hooks if hook['type'] != 'mmkd.L1PhaseHook']
