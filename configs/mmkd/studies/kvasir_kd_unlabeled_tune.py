# For choosing settings of kvasir_kd_unlabeled.py: 100 of the training images are held out, the test
# list is not touched. The teacher first:
#   python tools/train.py configs/mmkd/studies/kvasir_teacher_96_tune.py \
#       --work-dir work_dirs/studies/kvasir_teacher_tune
_base_ = './kvasir_kd_unlabeled.py'
_images = _base_.train_dataloader.dataset.dataset
_unlabeled_images = _base_.unlabeled_dataloader.dataset.dataset
_held_out = dict(type='mmkd.LabeledSubset', count=100, seed=2026)
model = dict(
    members=dict(teacher=dict(checkpoint='work_dirs/studies/kvasir_teacher_tune/epoch_16.pth'))
)
train_dataloader = dict(
    dataset=dict(dataset=dict(_delete_=True, **_held_out, complement=True, dataset=_images))
)
unlabeled_dataloader = dict(
    dataset=dict(
        dataset=dict(_delete_=True, **_held_out, complement=True, dataset=_unlabeled_images)
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **_held_out,
        dataset=dict(_images, pipeline=_base_.val_dataloader.dataset.pipeline, test_mode=True),
    )
)
test_dataloader = val_dataloader
