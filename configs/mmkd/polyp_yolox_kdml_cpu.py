# KDML on Kvasir-SEG for two CPU cores: small members at 160 px, 24 epochs from scratch.
_base_ = './polyp_yolox_kdml.py'
_narrow = {
    'bbox_head.num_classes': 1,
    'backbone.widen_factor': 0.25,
    'neck.in_channels': [64, 128, 256],
    'neck.out_channels': 64,
    'bbox_head.in_channels': 64,
    'bbox_head.feat_channels': 64,
}
model = dict(
    data_preprocessor=dict(batch_augments=None),
    members=dict(
        teacher=dict(config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'),
        student1=dict(options=_narrow),
        student2=dict(options=_narrow),
    ),
)

train_pipeline = _base_.small_train_pipeline
val_pipeline = _base_.small_val_pipeline
train_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=24, val_interval=6)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=24, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=16)
