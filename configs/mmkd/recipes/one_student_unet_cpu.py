# In stages, by one command, on Kvasir-SEG for two CPU cores: two students alone first, with labels
# for half of the images; then their frozen ensemble teaches one more on all images.
_base_ = '../polyp_unet_mixed_cpu.py'
# Dice of the polyp alone: with that of both classes narrow networks may stay at 'all background'.
_losses = [
    dict(type='CrossEntropyLoss', loss_name='loss_ce'),
    dict(
        type='DiceLoss',
        loss_name='loss_dice',
        use_sigmoid=False,
        naive_dice=True,
        ignore_index=0,
    ),
]
_peer = _base_.model.members.student1
_options = dict(_peer.options, **{'decode_head.loss_decode': _losses})
_images = _base_.train_dataloader.dataset
_unlabeled_pipeline = [  # the weak view; label maps are not read
    step
    for step in _base_.train_pipeline
    if step['type'] not in ('LoadAnnotations', 'PhotoMetricDistortion')
]
pretrain = dict(members=['student1', 'student2'])
model = dict(
    members=dict(
        teacher=None,
        student1=dict(options=_options),
        student2=dict(options=_options),
        student=dict(config=_peer.config, options=_options, seed=3),
    ),
    sharing=None,
    links=[
        dict(
            source='ensemble',  # student1 and student2
            target='student',
            combine=dict(type='MeanProbability'),
            loss=dict(type='PseudoLabel', mode='soft', dice_weight=1.0),
            on='both',
        )
    ],
)
train_dataloader = dict(
    dataset=dict(_delete_=True, type='mmkd.LabeledSubset', share=0.5, seed=0, dataset=_images)
)
unlabeled_dataloader = dict(
    batch_size=16,
    num_workers=1,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmkd.LabeledSubset',
        share=0.5,
        seed=0,
        complement=True,
        dataset=dict(_images, pipeline=_unlabeled_pipeline, test_mode=True),
    ),
)
default_hooks = dict(checkpoint=dict(save_best='student/mDice'))
