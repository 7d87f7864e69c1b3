# Mixed sharing on the built-in synthetic set: learns to segment polyps in minutes on two CPU cores.
# Data: python tools/make_synthetic.py
_base_ = './polyp_unet_mixed_cpu.py'
data_root = 'data/synthetic_polyps/'
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, img_suffix='.png'),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, img_suffix='.png')
)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR', T_max=12, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
