# Control: mutual learning alone: two students, no teacher.
_base_ = './polyp_yolox_kdml.py'
model = dict(members=dict(teacher=None), sharing=dict(type='ml_p'))
