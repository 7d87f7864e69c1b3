# For tools/benchmark.py on a GPU (tools/gpu_check.sh): YOLOX-m and two tiny at 640 px.
# Data: python tools/make_synthetic.py --out data/synthetic_640 --train 64 --val 8 --size 640
_base_ = '../polyp_yolox_kdml.py'
_scale = (640, 640)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
model = dict(data_preprocessor=dict(batch_augments=None), sharing=dict(type='kdml_mixed_full'))
train_dataloader = dict(
    batch_size=16, dataset=dict(data_root='data/synthetic_640/', pipeline=train_pipeline)
)
