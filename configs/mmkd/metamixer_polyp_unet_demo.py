# MetaMixer between two U-Nets on the built-in synthetic set, for two CPU cores.
# Data: python tools/make_synthetic.py
_base_ = './polyp_unet_mixed_demo.py'
model = dict(
    members=dict(teacher=None),
    sharing=dict(type='ml_p', tau=4.0),
    mixer=dict(type='MetaMixer', depths=(0, 1, 2, 3)))
