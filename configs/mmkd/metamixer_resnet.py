# MetaMixer (arXiv 2303.07951) between two CIFAR-style ResNet-18 on CIFAR-100, 200 epochs, on a GPU.
# Data: mmpretrain downloads them to data/cifar100
_base_ = [
    '../_base_/datasets/cifar100_classification.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/classification_runtime.py',
]
_cifar = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
_hundred = {'head.num_classes': 100, 'head.topk': (1,), 'data_preprocessor.num_classes': 100}
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        mean=[129.304, 124.070, 112.434],
        std=[68.170, 65.392, 70.418],
        to_rgb=False,
    ),
    members=dict(
        student1=dict(config=_cifar, options=_hundred, seed=1),
        student2=dict(config=_cifar, options=_hundred, seed=2),
    ),
    sharing=dict(type='ml_p', tau=4.0, schedule=dict(type='SigmoidRamp', end=0.3)),
    mixer=dict(type='MetaMixer', depths=(0, 1, 2, 3), alpha=1.0, local_alpha=1.0),
    ensemble=dict(members=['student1', 'student2']),
)
# Pairs of one class, which local mixing needs: of 100 classes a random batch has few.
train_dataloader = dict(sampler=dict(type='mmkd.ClassPairedSampler', _delete_=True))
train_cfg = dict(max_epochs=200, val_interval=10)
optim_wrapper = dict(
    optimizer=dict(
        type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, _delete_=True
    ),
    paramwise_cfg=None,
    clip_grad=None,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=400),
    dict(
        type='CosineAnnealingLR', T_max=200, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=128)
