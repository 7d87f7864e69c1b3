# Two detectors with an ImageNet encoder each and 10 % of Kvasir-SEG's boxes; the other images
# unlabeled, and a frozen teacher that was trained on the boxes of 800 images
# (docs/studies/kvasir_boxes_unlabeled). The teacher first:
#   python tools/train.py configs/mmkd/studies/kvasir_boxes_teacher.py \
#       --work-dir work_dirs/studies/kvasir_boxes_teacher
_base_ = ['../../_base_/models/efficientnet_lite_atss.py', './kvasir_boxes_96.py']
_epochs = 45  # of 11 iterations
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=_base_.lite_preprocessor,
    members=dict(
        teacher=dict(
            config=_base_.lite0_atss,
            options={'backbone.arch': 'lite1'},
            training='frozen',
            checkpoint='work_dirs/studies/kvasir_boxes_teacher/epoch_10.pth',
        ),
        student1=dict(config=_base_.lite0_atss, seed=None),
        student2=dict(config=_base_.lite0_atss, seed=None),
    ),
    sharing=dict(type='kd_p', schedule=dict(type='Trapezoid', warmup=0.1, decay=0.0)),
    ensemble=dict(members=['student1', 'student2']),
)
# The seed of the draw is set by run, the same in both (`seed_keys` of a study's plan).
_labeled = dict(type='mmkd.LabeledSubset', share=0.1, seed=0)
train_dataloader = dict(dataset=dict(_delete_=True, **_labeled, dataset=_base_.train_images))
unlabeled_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **_labeled,
        complement=True,
        dataset=dict(_base_.train_images, pipeline=_base_.unlabeled_pipeline, test_mode=True),
    ),
)
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
