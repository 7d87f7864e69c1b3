# MetaMixer between two YOLOX on the built-in synthetic set, for two CPU cores: detection mixes at
# the input only.
# Data: python tools/make_synthetic.py
_base_ = './polyp_yolox_kdml_demo.py'
model = dict(
    members=dict(teacher=None),
    sharing=dict(type='ml_p', tau=4.0),
    mixer=dict(type='MetaMixer', depths=(0,)),
)
