# The frozen teacher of kvasir_kd_unlabeled.py: kvasir_teacher.py at 96 px, 16 epochs.
_base_ = './kvasir_teacher.py'
_scale = (96, 96)
_keys = ('scale', 'crop_size')
_train, _val = (
    [dict(step, **{k: _scale for k in _keys if k in step}) for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.val_pipeline)
)
model = dict(data_preprocessor=dict(size=_scale), members=dict(teacher=dict(seed=0)))
train_dataloader = dict(dataset=dict(pipeline=_train))
val_dataloader = dict(dataset=dict(pipeline=_val))
test_dataloader = val_dataloader
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=1.0)}))
_epochs = 16
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
