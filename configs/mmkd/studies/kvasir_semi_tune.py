# For choosing settings of kvasir_semi.py: 100 of the training images are held out, the test list
# is not touched.
_base_ = './kvasir_semi.py'
_kept = dict(
    type='mmkd.LabeledSubset', count=100, seed=2026, complement=True, dataset=_base_.train_images
)
train_dataloader = dict(dataset=dict(dataset=dict(_delete_=True, **_kept)))
unlabeled_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            **dict(
                _kept,
                dataset=dict(
                    _base_.train_images, pipeline=_base_.unlabeled_pipeline, test_mode=True
                ),
            ),
        )
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
