# The frozen teacher of kvasir_boxes_unlabeled.py: an ATSS with EfficientNet-Lite1 and ImageNet
# weights, trained on the boxes of 800 of the 900 training images and measured on the other 100. The
# test list is not touched.
_base_ = ['../../_base_/models/efficientnet_lite_atss.py', './kvasir_boxes_96.py']
_epochs = 10  # of 50 iterations
_held_out = dict(type='mmkd.LabeledSubset', count=100, seed=2026)
model = dict(
    type='mmkd.OnlineDistiller',
    data_preprocessor=_base_.lite_preprocessor,
    members=dict(
        teacher=dict(config=_base_.lite0_atss, options={'backbone.arch': 'lite1'}, seed=0)
    ),
    ensemble=dict(members=['teacher']),
)
train_dataloader = dict(
    batch_size=16,
    dataset=dict(_delete_=True, **_held_out, complement=True, dataset=_base_.train_images),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **_held_out,
        dataset=dict(_base_.train_images, pipeline=_base_.val_pipeline, test_mode=True),
    )
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='mmkd.PolypDetMetric', ann_file='data/kvasir/annotations/train.json')]
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=_epochs, val_interval=_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
