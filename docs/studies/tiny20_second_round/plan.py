# Nothing was tuned: tau 3 and links on all images are those of docs/studies/tiny20_one_student.
title = 'Tiny-ImageNet-20, 100 labels a class: an ensemble into two new students, on all images'
config = 'configs/mmkd/studies/tiny20_second_round.py'
_alone = {
    'pretrain': None,
    'model.links': None,
    'model.members.first1': None,
    'model.members.first2': None,
    'unlabeled_dataloader': None,
}
_epochs = 210
arms = dict(
    individual=_alone,
    taught={},
    taught_peers={
        'model.sharing.type': 'ml_p',
        'model.sharing.tau': 3.0,
    },
    individual_long={
        **_alone,
        'train_cfg.max_epochs': _epochs,
        'train_cfg.val_interval': _epochs,
        'param_scheduler.1.T_max': _epochs,
    },
)
control = 'individual'
controls = dict(
    individual='the same two students alone, equal steps, labels only; their ensemble',
    individual_long='the same, about the compute of both rounds together',
)
primary = dict(metric='accuracy/top1', members=['student1', 'student2'], direction='higher')
seeds = [0, 1, 2, 3, 4]
seed_keys = ['train_dataloader.dataset.seed', 'unlabeled_dataloader.dataset.seed']
comparisons = [
    dict(arm='taught', at_least=1.0, text='Each student gains a point.'),
    dict(arm='taught', members=['ensemble'], at_least=1.0, text='Their ensemble gains one, too.'),
    dict(arm='taught', control='individual_long', text='The students also at equal compute.'),
    dict(
        arm='taught',
        control='individual_long',
        members=['ensemble'],
        text='The ensemble also at equal compute.',
    ),
    dict(arm='taught_peers', control='taught', text='Peers beside the frozen ensemble.'),
]
test = 't'
budget = dict(text='five hours on two CPU cores', max_minutes=90)
hypotheses = """
The ensemble of two networks that were trained alone is better than either, and it is finished: on
all images, the unlabeled ones too, it teaches two new students more than the labels do. Unlike
peers, which come to agree with each other, both stay different enough that their ensemble gains a
point as well.
"""
