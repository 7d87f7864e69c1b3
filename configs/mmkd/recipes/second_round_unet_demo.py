# second_round_unet_cpu.py on synthetic frames.
# Data: python tools/make_synthetic.py
_base_ = './second_round_unet_cpu.py'
_synthetic = dict(data_root='data/synthetic_polyps/', img_suffix='.png')
_loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(_loader, batch_size=8, dataset=dict(dataset=_synthetic))
unlabeled_dataloader = dict(num_workers=0, batch_size=8, dataset=dict(dataset=_synthetic))
val_dataloader = dict(_loader, dataset=_synthetic)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=24, val_interval=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR', T_max=24, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
