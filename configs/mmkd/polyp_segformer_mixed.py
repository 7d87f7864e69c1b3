# Mixed sharing (arXiv 2212.02931) for polyp segmentation: a SegFormer-B2 teacher and two B0
# students, on a GPU.
# The backbones start from ImageNet (a download). Data: python tools/convert_polyp.py IMAGES MASKS
# data/kvasir
_base_ = './polyp_unet_mixed.py'
_b2 = 'mmseg::segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py'
_b0 = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
model = dict(
    members=dict(
        teacher=dict(config=_b2, options={'decode_head.num_classes': 2}),
        student1=dict(config=_b0, options={'decode_head.num_classes': 2}, _delete_=True, seed=1),
        student2=dict(config=_b0, options={'decode_head.num_classes': 2}, _delete_=True, seed=2),
    )
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', T_max=100, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0), 'connectors': dict(lr_mult=10.0)}),
)
