# KDML with EfficientNet-Lite on Kvasir-SEG for two CPU cores: at 96 px, 12 epochs for the teacher,
# then 12 epochs for the students.
_base_ = './polyp_lite_fpn_kdml.py'
_scale = (96, 96)
model = dict(data_preprocessor=dict(size=_scale))
_keys = ('scale', 'crop_size')
train_pipeline, val_pipeline = (
    [dict(step, **{key: _scale for key in _keys if key in step}) for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.val_pipeline)
)
_load, _tta = _base_.tta_pipeline
_resize = dict(type='Resize', scale=_scale, keep_ratio=False)
tta_pipeline = [_load, dict(_tta, transforms=[[_resize], *_tta['transforms'][1:]])]
train_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=12, eta_min=5e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=16)
