# For tools/benchmark.py on a GPU (tools/gpu_check.sh): ResNet-50 and two ResNet-18 at 224 px.
# Data: python tools/make_synthetic.py --out data/synthetic_640 --train 64 --val 8 --size 640
_base_ = '../msi_resnet_kdml.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
model = dict(sharing=dict(type='kdml_mixed_full'))
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        _delete_=True,
        type='mmkd.FolderClassification',
        data_root='data/synthetic_640/',
        data_prefix='images/train',
        ann_file='labels/train.txt',
        classes=('no polyp', 'polyp'),
        pipeline=train_pipeline,
    ),
)
