# KDML (arXiv 2110.11023) with two-stage detectors: a Faster R-CNN of ResNet-50 and two of ResNet-18
# on Kvasir-SEG, on a GPU, from ImageNet weights. Both second stages score the target's proposals.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir
# The control: --cfg-options model.sharing.type=individual
_base_ = [
    '../_base_/datasets/kvasir_detection.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/default_runtime.py',
]
_student = {
    'backbone.depth': 18,
    'backbone.init_cfg.checkpoint': 'torchvision://resnet18',
    'neck.in_channels': [64, 128, 256, 512],
    'neck.out_channels': 128,
    'rpn_head.in_channels': 128,
    'rpn_head.feat_channels': 128,
    'roi_head.bbox_roi_extractor.out_channels': 128,
    'roi_head.bbox_head.in_channels': 128,
    'roi_head.bbox_head.fc_out_channels': 512,
    'roi_head.bbox_head.num_classes': 1,
}
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    members=dict(
        teacher=dict(
            config='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
            options={'roi_head.bbox_head.num_classes': 1},
            seed=0,
        ),
        student1=dict(
            config='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', options=_student, seed=1
        ),
        student2=dict(
            config='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', options=_student, seed=2
        ),
    ),
    sharing=dict(
        type='kdml_p',
        # At weight 1 links are half of what a student learns, and cost it 4.6 points of AP50
        # (docs/studies/polyp_fasterrcnn_kdml).
        weight=dict(type='GradientShare', share=0.1),
        schedule=dict(type='SigmoidRamp', end=0.3),
    ),
    ensemble=dict(members=['student1', 'student2'], fusion='wbf', iou_thr=0.55),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=100, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
