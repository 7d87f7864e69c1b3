# An ensemble of two networks into one, with 100 labeled images a class of Tiny-ImageNet-20 and the
# other 6000 without labels (docs/studies/tiny20_one_student): two narrow ResNets first, then their
# frozen ensemble teaches a third of the same kind. Without `pretrain`, `links` and
# `unlabeled_dataloader` the third learns from the labels alone.
_base_ = './tiny20_peers.py'
_kind = _base_.model.members.student1
_labeled = dict(_base_.train_dataloader.dataset)
_members = ['student1', 'student2']
pretrain = dict(members=_members)
model = dict(
    members=dict(
        teacher=None,
        student=dict(config=_kind.config, options=_kind.options, seed=None),
    ),
    links=[
        dict(
            source='ensemble',
            target='student',
            combine=dict(type='MeanProbability'),
            loss=dict(type='KLDivergence', tau=3.0),
            on='both',
        )
    ],
    ensemble=dict(members=_members),
)
unlabeled_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(_labeled, complement=True),
)
