# In stages, by one command, on synthetic frames: the teacher first, then two students with it
# frozen.
# Data: python tools/make_synthetic.py
_base_ = '../polyp_unet_mixed_demo.py'
pretrain = dict(members='teacher')
model = dict(sharing=dict(_delete_=True, type='kd_p', weight=dict(type='GradientShare', share=0.3)))
