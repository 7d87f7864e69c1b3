# Tried once before, with seed 101 and 100 held-out training images: AP50 of the first round 73.0
# and 74.7, of its ensemble 72.7; of the second round 75.1 and 74.9, of its ensemble 76.4.
title = "Polyp boxes, 10 % of Kvasir-SEG's labels: an ensemble into two new students, on all images"
config = 'configs/mmkd/studies/kvasir_boxes_second_round.py'
_alone = {
    'pretrain': None,
    'model.links': None,
    'model.members.first1': None,
    'model.members.first2': None,
    'unlabeled_dataloader': None,
}
_epochs = 180  # four times those of a round
arms = dict(
    labels_only=_alone,
    second_round={},
    labels_only_long={
        **_alone,
        'train_cfg.max_epochs': _epochs,
        'train_cfg.val_interval': _epochs,
        'param_scheduler.1.T_max': _epochs,
    },
)
control = 'labels_only'
controls = dict(
    labels_only='the same two students alone, equal steps; their ensemble',
    labels_only_long='the same, about the compute of both rounds together',
)
primary = dict(metric='polyp/ap50', members=['student1', 'student2'], direction='higher')
metrics = ['polyp/best_f1', 'coco/bbox_mAP']
seeds = [0, 1, 2, 3, 4]
seed_keys = ['train_dataloader.dataset.seed', 'unlabeled_dataloader.dataset.seed']
comparisons = [
    dict(arm='second_round', at_least=1.0, text='The students gain a point of AP50.'),
    dict(arm='second_round', members=['ensemble'], at_least=1.0, text='Their ensemble, too.'),
    dict(arm='second_round', control='labels_only_long', text='Students at equal compute.'),
    dict(
        arm='second_round',
        control='labels_only_long',
        members=['ensemble'],
        text='The ensemble at equal compute.',
    ),
]
test = 't'
budget = dict(text='four hours on one CPU core', max_minutes=90)
hypotheses = """
As in docs/studies/tiny20_second_round, here for detectors: the mean of two frozen detectors,
position by position, says on all images more than the 90 labels do. Two new detectors gain a point
of AP50 and so does their ensemble, without any other label.
"""
