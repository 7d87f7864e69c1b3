# 10 % of Kvasir-SEG's labels, the other images without: what peers and averages add
# (docs/studies/kvasir_unlabeled).
# kvasir_semi.py at 96 px, so that a run takes minutes on one CPU core.
_base_ = './kvasir_semi.py'
_scale = (96, 96)
_keys = ('scale', 'crop_size')
_train, _unlabeled, _val = (
    [dict(step, **{k: _scale for k in _keys if k in step}) for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.unlabeled_pipeline, _base_.val_pipeline)
)
_epochs = 45  # of 11 iterations
model = dict(
    data_preprocessor=dict(size=_scale),
    members=dict(student1=dict(seed=None), student2=dict(seed=None)),
    sharing=dict(
        type='individual',
        # Hard labels of confident pixels, cross entropy and Dice as in the task's own loss.
        prediction=dict(type='PseudoLabel', mode='hard', threshold=0.8, dice_weight=1.0),
        schedule=dict(type='Trapezoid', begin=0.1, warmup=0.2, decay=0.0),
        ema_momentum=0.01,
    ),
    strong_view=dict(type='StrongView', cutmix=0.5),
)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=_train)))
unlabeled_dataloader = dict(dataset=dict(dataset=dict(pipeline=_unlabeled)))
val_dataloader = dict(dataset=dict(pipeline=_val))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
# One rate for encoder and decoder: on the tuning split better than a third for the encoder.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=1.0)}))
