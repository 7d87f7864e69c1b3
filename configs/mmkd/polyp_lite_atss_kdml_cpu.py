# KDML with EfficientNet-Lite on Kvasir-SEG's boxes for two CPU cores: at 160 px, 12 epochs for the
# teacher, then 12 epochs for the students.
_base_ = './polyp_lite_atss_kdml.py'
_size = {'bbox_head.anchor_generator.octave_base_scale': 4}  # anchors of 32 to 128 px
model = dict(
    members=dict(
        teacher=dict(options=_size), student1=dict(options=_size), student2=dict(options=_size)
    )
)
train_pipeline = _base_.small_train_pipeline
val_pipeline = _base_.small_val_pipeline
train_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=12, eta_min=5e-5, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=16)
