# IE-KD between two peers that also learn from each other's predictions: each one's factor is the
# other's source. CIFAR-100, on
# a GPU.
_base_ = './iekd_resnet.py'
_ie = dict(
    tap='feature',
    name='ie',
    weight=0.02,
    loss=dict(type='InheritExploreLoss'),
    connector=dict(type='InheritExplore'),
    source_connector=dict(type='FactorAutoEncoder', joint=True),
)
model = dict(
    members=dict(teacher=None, student2=dict(_base_.model.members.student1, seed=2)),
    sharing='ml_p',
    links=[
        dict(_ie, source='student2', target='student1'),
        dict(_ie, source='student1', target='student2'),
    ],
    ensemble=dict(members=['student1', 'student2']),
)
