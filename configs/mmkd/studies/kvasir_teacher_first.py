# kvasir_unlabeled.py with a teacher that has the same 90 labels and no others
# (docs/studies/kvasir_teacher_first): a larger network that sees the images enlarged is trained
# first; frozen, it teaches two students on labeled and unlabeled images.
_base_ = './kvasir_unlabeled.py'
_teacher_epochs = 90  # of 11 iterations
_epochs = 100
pretrain = dict(
    members='teacher',
    options={
        'train_cfg.max_epochs': _teacher_epochs,
        'train_cfg.val_interval': _teacher_epochs,
        'param_scheduler.1.T_max': _teacher_epochs,
    },
)
model = dict(
    members=dict(
        teacher=dict(
            config=_base_.lite0_fpn,
            options={
                'backbone.arch': 'lite2',
                'backbone.upscale': 2,
                'neck.in_channels': [24, 48, 120, 352],
            },
        )
    ),
    sharing=dict(
        _delete_=True,
        type='kd_p',
        prediction=dict(type='PseudoLabel', mode='soft', dice_weight=1.0),
        on='both',
    ),
)
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
