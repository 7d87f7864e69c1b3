# For choosing settings of tiny20_unlabeled.py: 1000 of the training images are held out, the
# validation images are not touched.
_base_ = './tiny20_unlabeled.py'
_held_out = dict(type='mmkd.LabeledSubset', count=1000, seed=2026)
_images = _base_.train_images
_kept = dict(_delete_=True, **_held_out, complement=True, dataset=_images)
train_dataloader = dict(dataset=dict(dataset=_kept))
unlabeled_dataloader = dict(dataset=dict(dataset=_kept))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **_held_out,
        dataset=dict(_images, pipeline=_base_.val_pipeline, test_mode=True),
    )
)
test_dataloader = val_dataloader
