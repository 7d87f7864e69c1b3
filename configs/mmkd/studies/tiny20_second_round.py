# A second round, with 100 labeled images a class of Tiny-ImageNet-20 and the other 6000 without
# labels (docs/studies/tiny20_second_round): two narrow ResNets first; then their frozen ensemble
# teaches two new ones of the same kind on all images. Without `pretrain`, `links` and
# `unlabeled_dataloader` the students learn from the labels alone.
_base_ = './tiny20_peers.py'
_kind = _base_.model.members.student1
_first = dict(config=_kind.config, options=_kind.options, seed=None)
_labeled = dict(_base_.train_dataloader.dataset)
_students = ['student1', 'student2']
pretrain = dict(members=['first1', 'first2'])
model = dict(
    members=dict(teacher=None, first1=_first, first2=_first),
    sharing=dict(students=_students),
    links=[
        dict(
            source=['first1', 'first2'],
            target=target,
            combine=dict(type='MeanProbability'),
            loss=dict(type='KLDivergence', tau=3.0),
            on='both',
        )
        for target in _students
    ],
    ensemble=dict(members=_students),
)
unlabeled_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(_labeled, complement=True),
)
