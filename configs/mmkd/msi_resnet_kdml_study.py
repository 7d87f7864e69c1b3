# What tools/study.py trains many times: msi_resnet_kdml_cpu.py for 3 epochs.
_base_ = './msi_resnet_kdml_cpu.py'
# As the paper has it: a distance of normalized maps at a fixed weight.
model = dict(sharing=dict(feature=dict(type='FeatureMSE'), feature_weight=1.0))
train_cfg = dict(max_epochs=3, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=3, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
