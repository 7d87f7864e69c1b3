# Control: the same members, each trained alone in one run.
_base_ = './polyp_yolox_kdml.py'
model = dict(sharing=dict(type='individual'))
