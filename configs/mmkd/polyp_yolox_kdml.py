# KDML (arXiv 2110.11023) for polyp detection: a YOLOX-m teacher and two YOLOX-tiny students on
# Kvasir-SEG, on a GPU.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir
_base_ = [
    '../_base_/datasets/kvasir_detection.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        pad_size_divisor=32,
        batch_augments=[
            dict(
                type='BatchSyncRandomResize',
                random_size_range=(320, 512),
                size_divisor=32,
                interval=10,
            )
        ],
    ),
    members=dict(
        teacher=dict(
            config='mmdet::yolox/yolox_m_8xb8-300e_coco.py',
            options={'bbox_head.num_classes': 1},
            seed=0,
        ),
        student1=dict(
            config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
            options={'bbox_head.num_classes': 1},
            seed=1,
        ),
        student2=dict(
            config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
            options={'bbox_head.num_classes': 1},
            seed=2,
        ),
    ),
    sharing=dict(type='kdml_p', weight=1.0, tau=2.0, schedule=dict(type='SigmoidRamp', end=0.3)),
    ensemble=dict(members=['student1', 'student2'], fusion='wbf', iou_thr=0.55),
)
custom_hooks = [*_base_.custom_hooks, dict(type='mmkd.L1PhaseHook')]
