# AdamW for each member, linear warm-up, cosine to a twentieth; no decay on norms and biases.
train_cfg = dict(type='mmkd.ResumableTrainLoop', max_epochs=100, val_interval=5)
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmkd.MemberOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=100, eta_min=5e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
