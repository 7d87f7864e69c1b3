# kvasir_unlabeled.py in two rounds (docs/studies/kvasir_unlabeled): two students with 10 % of the
# labels first; then their frozen ensemble teaches two new ones of the same kind on all images.
_base_ = './kvasir_unlabeled.py'
_first = dict(config=_base_.lite0_fpn, seed=None)
_students = ['student1', 'student2']
pretrain = dict(members=['first1', 'first2'])
model = dict(
    members=dict(first1=_first, first2=_first),
    sharing=dict(students=_students),
    links=[
        dict(
            source=['first1', 'first2'],
            target=target,
            combine=dict(type='MeanProbability'),
            loss=dict(type='PseudoLabel', mode='soft', dice_weight=1.0),
            on='both',
        )
        for target in _students
    ],
    ensemble=dict(members=_students),
)
