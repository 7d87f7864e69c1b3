# Control: the same members, each trained alone in one run.
_base_ = './polyp_yolox_kdml_cpu.py'
model = dict(sharing=dict(type='individual'))
