# MetaMixer between two U-Nets on the built-in synthetic set, for two CPU cores.
# Data: python tools/make_synthetic.py
_base_ = './polyp_unet_mixed_demo.py'
# Full weight, or global mixing in half of the steps, leaves such narrow networks at 'all
# background' for this short training.
model = dict(
    members=dict(teacher=None),
    sharing=dict(type='ml_p', tau=4.0, weight=0.1),
    mixer=dict(type='MetaMixer', depths=(0, 1, 2, 3), global_prob=0.2),
)
train_cfg = dict(max_epochs=16)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR', T_max=16, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
