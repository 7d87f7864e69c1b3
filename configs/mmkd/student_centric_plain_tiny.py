# student_centric_plain.py for two CPU cores: Tiny-ImageNet-20 at 32 px, 8 epochs.
_base_ = ['../_base_/models/plain_vgg.py', './msi_resnet_kdml_cpu.py']
_twenty = {'head.num_classes': 20}
model = dict(
    _delete_=True,
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    members=dict(
        teacher=dict(config=_base_.plain_teacher, options=_twenty, seed=0),
        student1=dict(config=_base_.plain_student, options=_twenty, seed=1),
    ),
    links=_base_.guidance,
    ensemble=dict(members=['student1']),
)
