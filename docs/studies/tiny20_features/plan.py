# Not tuned: tau is that of docs/studies/tiny20_peers; features make a tenth of the gradient, the
# default share. `ie_kd` first fits its links' auto-encoders on the teacher, for 30 epochs.
# The teacher once, before:
#   python tools/train.py configs/mmkd/studies/tiny20_teacher.py \
#       --work-dir work_dirs/studies/tiny20_teacher
title = 'Tiny-ImageNet-20 with 100 images a class: what a finished teacher gives, 60 epochs'
config = 'configs/mmkd/studies/tiny20_features.py'
_schedule = dict(type='Trapezoid', warmup=0.1, decay=0.0)
_students = ['student1', 'student2']


def _links(name, loss, share=0.1, **options):
    return [
        dict(
            source='teacher',
            target=student,
            tap='feature',
            name=name,
            weight=dict(type='GradientShare', share=share),
            schedule=_schedule,
            loss=dict(type=loss),
            **options,
        )
        for student in _students
    ]


_inherit_explore = _links(
    'ie',
    'InheritExploreLoss',
    connector=dict(type='InheritExplore'),
    source_connector=dict(type='FactorAutoEncoder'),
)
_correlations = [
    *_links('channel', 'ChannelCorrelation', 0.05, connector=dict(type='ConvConnector')),
    *_links('spatial', 'SpatialCorrelation', 0.05),
]
arms = dict(
    individual={'model.members.teacher': None},
    kd_p={'model.sharing.type': 'kd_p'},
    kdml_p={'model.sharing.type': 'kdml_p'},
    kd_f={'model.sharing.type': 'kd_f'},
    ie_kd={
        'model.links': _inherit_explore,
        'custom_hooks': [
            dict(type='mmkd.MemberHook'),
            dict(type='mmkd.PreemptionHook'),
            dict(type='mmkd.FactorPretrainHook'),
        ],
    },
    student_centric={'model.links': _correlations},
)
control = 'individual'
controls = dict(individual='the same two students alone, equal steps; their ensemble')
primary = dict(metric='accuracy/top1', members=_students, direction='higher')
seeds = [30, 31, 32, 33, 34]
seed_keys = ['train_dataloader.dataset.seed']
comparisons = [
    dict(arm='kd_p', at_least=2.0, text="The teacher's predictions add two points."),
    dict(arm='kdml_p', control='kd_p', text='Peers beside the teacher.'),
    dict(arm='kd_f', text='Features (PKD) at a tenth of the gradient.'),
    dict(arm='ie_kd', at_least=1.0, text='Inheritance and exploration.'),
    dict(arm='student_centric', at_least=1.0, text='Channel and spatial correlations.'),
]
test = 't'
budget = dict(text='four hours on one CPU core', max_minutes=60)
hypotheses = """
The teacher has four times the students' labels, so the study asks how much of it reaches them, not
what their own labels can do. Features help where their source is finished and the labels are few:
IE-KD (arXiv 2107.00181) and student-centric learning (JISE 36(6), 2020) raise the mean top-1 of the
students by a point, predictions by two.
"""
