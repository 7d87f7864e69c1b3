# For choosing settings of kvasir_yolox_kdml.py: 100 of the training images are held out, the test
# list is not touched.
_base_ = './kvasir_yolox_kdml.py'
_held_out = dict(type='mmkd.LabeledSubset', count=100, seed=2026)
_images = _base_.train_images
_weak = _base_.unlabeled_dataloader.dataset.dataset
train_dataloader = dict(
    dataset=dict(dataset=dict(_delete_=True, **_held_out, complement=True, dataset=_images))
)
unlabeled_dataloader = dict(
    dataset=dict(dataset=dict(_delete_=True, **_held_out, complement=True, dataset=_weak))
)
_pipeline = [  # CocoMetric takes the boxes from the images, not from the whole list's file
    dict(step, meta_keys=(*step['meta_keys'], 'instances')) if 'meta_keys' in step else step
    for step in _base_.val_pipeline
]
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **_held_out,
        dataset=dict(_images, pipeline=_pipeline, test_mode=True),
    )
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='mmkd.PolypDetMetric', ann_file='data/kvasir/annotations/train.json'),
    dict(type='CocoMetric', metric='bbox'),
]
test_evaluator = val_evaluator
