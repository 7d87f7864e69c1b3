# 100 images a class of Tiny-ImageNet-20 at 32 px and enough epochs that a network alone overfits
# (docs/studies/tiny20_peers): narrow ResNets from scratch, a wider teacher, all trained together.
# Data: data/tinyimagenet20/{train,val}/<class>/*
_base_ = '../msi_resnet_kdml_cpu.py'
_epochs = 60  # of 31 iterations
model = dict(
    channels_last=True,
    members=dict(teacher=dict(seed=None), student1=dict(seed=None), student2=dict(seed=None)),
    sharing=dict(
        _delete_=True,
        type='individual',
        schedule=dict(type='Trapezoid', warmup=0.1, decay=0.0),
    ),
)
train_images = dict(_base_.train_dataloader.dataset)
# The seed of the draw is set by run (`seed_keys` of the study's plan).
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True, type='mmkd.LabeledSubset', count=2000, seed=0, dataset=train_images
    ),
)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min=0, convert_to_iter_based=True),
]
# A study keeps figures: one checkpoint at the end, none of the best.
default_hooks = dict(
    logger=dict(interval=31), checkpoint=dict(interval=1000, save_last=True, save_best=None)
)
custom_hooks = [dict(type='mmkd.MemberHook'), dict(type='mmkd.PreemptionHook')]
