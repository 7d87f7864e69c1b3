# As adamw_100e.py, counted in iterations, as MMSegmentation does; goes with
# ../segmentation_iter_runtime.py.
train_cfg = dict(type='mmkd.ResumableIterTrainLoop', max_iters=20000, val_interval=2000)
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmkd.MemberOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=20000, eta_min=5e-5, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
