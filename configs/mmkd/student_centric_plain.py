# Student-centric learning (JISE 36(6), 2020): an 11-layer plain teacher guides a 5-layer plain
# student, CIFAR-100, on a GPU.
_base_ = [
    '../_base_/models/plain_vgg.py',
    '../_base_/datasets/cifar100_classification.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/classification_runtime.py',
]
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        mean=[129.304, 124.070, 112.434],
        std=[68.170, 65.392, 70.418],
        to_rgb=False,
    ),
    members=dict(
        teacher=dict(config=_base_.plain_teacher, seed=0),
        student1=dict(config=_base_.plain_student, seed=1),
    ),
    links=_base_.guidance,
    ensemble=dict(members=['student1']),
)
auto_scale_lr = dict(base_batch_size=128)
