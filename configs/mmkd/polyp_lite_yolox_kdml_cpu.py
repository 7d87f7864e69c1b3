# KDML of YOLOX with EfficientNet-Lite on Kvasir-SEG's boxes and frames without boxes, for two CPU
# cores: 12 epochs at 160 px; the teacher has EfficientNet-Lite1 and sees the images enlarged.
_base_ = './polyp_lite_yolox_kdml.py'
model = dict(members=dict(teacher=dict(options=dict(_delete_=True, **_base_.lite1_yolox_enlarged))))
train_pipeline = _base_.small_train_pipeline
val_pipeline = _base_.small_val_pipeline
unlabeled_pipeline = [
    step
    for step in _base_.small_train_pipeline
    if step['type'] not in ('LoadAnnotations', 'YOLOXHSVRandomAug')
]
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline))
unlabeled_dataloader = dict(num_workers=1, dataset=dict(pipeline=unlabeled_pipeline))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=12, eta_min=5e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
