# tiny20_peers.py with a wrong label on 40 % of the training images (docs/studies/tiny20_noise).
_base_ = './tiny20_peers.py'
# The seed of the noise is set by run (`seed_keys` of the study's plan).
_noise = dict(type='mmkd.LabelNoise', share=0.4, num_classes=20, seed=0)
train_pipeline = [_noise, *_base_.train_pipeline]
model = dict(members=dict(teacher=None))
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
