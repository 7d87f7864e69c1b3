# For tools/benchmark.py on a GPU (tools/gpu_check.sh): SegFormer-B2 and two B0 at 512 px.
# Data: python tools/make_synthetic.py --out data/synthetic_640 --train 64 --val 8 --size 640
_base_ = '../polyp_segformer_mixed.py'
_scale = (512, 512)
_scratch = {  # no network for pretrained weights
    'backbone.init_cfg': None,
    'decode_head.num_classes': 2,
    'decode_head.norm_cfg.type': 'BN',
}
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=_scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
model = dict(
    data_preprocessor=dict(size=_scale),
    members=dict(
        teacher=dict(options=_scratch),
        student1=dict(options=_scratch),
        student2=dict(options=_scratch),
    ),
    sharing=dict(type='kdml_mixed_full'),
)
train_dataloader = dict(
    dataset=dict(data_root='data/synthetic_640/', img_suffix='.png', pipeline=train_pipeline)
)
