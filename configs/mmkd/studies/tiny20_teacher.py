# The frozen teacher of tiny20_features.py: the wider ResNet of tiny20_peers.py, trained alone on
# all 8000 images for 30 epochs.
_base_ = './tiny20_peers.py'
_epochs = 30  # of 125 iterations
model = dict(
    members=dict(teacher=dict(seed=0), student1=None, student2=None),
    sharing=None,
    ensemble=dict(members=['teacher']),
)
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.train_images))
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min=0, convert_to_iter_based=True),
]
