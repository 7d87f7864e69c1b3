# IE-KD (arXiv 2107.00181): a CIFAR-style ResNet-34 teacher, trained along, and a ResNet-18 of
# half its width, CIFAR-100, on a
# GPU. docs/methods/ie_kd.md has the form with a finished teacher.
_base_ = [
    '../_base_/datasets/cifar100_classification.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/classification_runtime.py',
]
_hundred = {'head.num_classes': 100, 'head.topk': (1,), 'data_preprocessor.num_classes': 100}
_narrow = dict(
    _hundred,
    **{'backbone.base_channels': 32, 'backbone.stem_channels': 32, 'head.in_channels': 256},
)
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        mean=[129.304, 124.070, 112.434],
        std=[68.170, 65.392, 70.418],
        to_rgb=False,
    ),
    members=dict(
        teacher=dict(
            config='mmpretrain::resnet/resnet34_8xb16_cifar10.py', options=_hundred, seed=0
        ),
        student1=dict(
            config='mmpretrain::resnet/resnet18_8xb16_cifar10.py', options=_narrow, seed=1
        ),
    ),
    links=[
        dict(
            source='teacher',
            target='student1',
            tap='feature',
            name='ie',
            weight=0.02,
            loss=dict(type='InheritExploreLoss'),
            connector=dict(type='InheritExplore'),
            source_connector=dict(type='FactorAutoEncoder', joint=True),
        )
    ],
    ensemble=dict(members=['student1']),
)
auto_scale_lr = dict(base_batch_size=128)
