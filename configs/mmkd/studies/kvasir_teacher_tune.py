# For choosing settings of kvasir_teacher.py: 100 of the training images are held out, the test list
# is not touched.
_base_ = './kvasir_teacher.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmkd.LabeledSubset',
        count=100,
        seed=2026,
        complement=True,
        dataset=_base_.train_images,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmkd.LabeledSubset',
        count=100,
        seed=2026,
        dataset=dict(_base_.train_images, pipeline=_base_.val_pipeline, test_mode=True),
    )
)
test_dataloader = val_dataloader
