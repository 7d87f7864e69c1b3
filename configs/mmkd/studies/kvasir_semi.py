# 10 % of Kvasir-SEG's labels, the other images unlabeled; two students with an ImageNet encoder.
# About 12 minutes on one CPU core with links on unlabeled images, 5 without.
_base_ = ['../../_base_/models/efficientnet_lite_fpn.py', './kvasir_128.py']
_epochs = 60  # of 11 iterations
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(_base_.lite_preprocessor, size=(128, 128)),
    members=dict(
        student1=dict(config=_base_.lite0_fpn, seed=1),
        student2=dict(config=_base_.lite0_fpn, seed=2),
    ),
    ensemble=dict(members=['student1', 'student2']),
)
# The seed of the draw is set by run, the same in both (`seed_keys` of a study's plan).
train_dataloader = dict(
    dataset=dict(
        _delete_=True, type='mmkd.LabeledSubset', share=0.1, seed=0, dataset=_base_.train_images
    )
)
unlabeled_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmkd.LabeledSubset',
        share=0.1,
        seed=0,
        complement=True,
        dataset=dict(_base_.train_images, pipeline=_base_.unlabeled_pipeline, test_mode=True),
    ),
)
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.01),
    # The pretrained encoder moves slowly.
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.3)}),
    clip_grad=dict(max_norm=5),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
