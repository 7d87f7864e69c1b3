# The teacher of kvasir_kd.py: EfficientNet-Lite1 with ImageNet weights and a feature pyramid,
# trained on all labels.
_base_ = ['../../_base_/models/efficientnet_lite_fpn.py', './kvasir_128.py']
_epochs = 20
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(_base_.lite_preprocessor, size=(128, 128)),
    members=dict(teacher=dict(config=_base_.lite0_fpn, options={'backbone.arch': 'lite1'}, seed=0)),
    ensemble=dict(members=['teacher']),
)
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.3)}),
    clip_grad=dict(max_norm=5),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
