# KDML (arXiv 2110.11023) between unlike detectors: a DINO of ResNet-50 teaches two YOLOX-tiny on
# Kvasir-SEG, on a GPU. Its boxes are a second truth for the students' own loss; the students
# compare theirs position by position.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir
# The control: --cfg-options model.sharing.type=individual
_base_ = [
    '../_base_/datasets/kvasir_detection.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/default_runtime.py',
]
_student = {'bbox_head.num_classes': 1}
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    members=dict(
        teacher=dict(
            config='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
            options={'bbox_head.num_classes': 1},
            seed=0,
        ),
        student1=dict(config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', options=_student, seed=1),
        student2=dict(config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', options=_student, seed=2),
    ),
    sharing=dict(type='kdml_p', weight=1.0, schedule=dict(type='SigmoidRamp', end=0.3)),
    ensemble=dict(members=['student1', 'student2'], fusion='wbf', iou_thr=0.55),
)
# DINO's own learning rate; a tenth in its backbone, as its config has it.
optim_wrapper = dict(
    members=dict(
        teacher=dict(
            optimizer=dict(lr=1e-4, weight_decay=1e-4),
            clip_grad=dict(max_norm=0.1),
            paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
        )
    )
)
