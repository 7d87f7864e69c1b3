# Control: knowledge distillation alone: the students learn from the teacher, not from each other.
_base_ = './polyp_yolox_kdml_cpu.py'
model = dict(sharing=dict(type='kd_p'))
