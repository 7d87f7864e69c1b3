# kvasir_boxes_unlabeled.py in two rounds, without its teacher and the labels of that
# (docs/studies/kvasir_boxes_second_round): two detectors with boxes on 90 images first; then their
# frozen ensemble teaches two new ones of the same kind on all images.
_base_ = './kvasir_boxes_unlabeled.py'
_first = dict(config=_base_.lite0_atss, seed=None)
_students = ['student1', 'student2']
pretrain = dict(members=['first1', 'first2'])
model = dict(
    members=dict(teacher=None, first1=_first, first2=_first),
    sharing=dict(_delete_=True, type='individual', students=_students),
    links=[
        dict(
            source=['first1', 'first2'],
            target=target,
            combine=dict(type='MeanProbability'),
            schedule=dict(type='Trapezoid', warmup=0.1, decay=0.0),
            on='both',
        )
        for target in _students
    ],
)
