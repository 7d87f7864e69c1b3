# Control: mutual learning alone: two students, no teacher.
_base_ = './polyp_yolox_kdml_cpu.py'
model = dict(members=dict(teacher=None), sharing=dict(type='ml_p'))
