# Tried once before, with seed 101 and 100 held-out training images: AP50 of the teacher 81.6, of
# its students 77.1 and 74.9, of their ensemble 78.8; of students alone 73.0 and 74.7, of their
# ensemble 72.7 (docs/studies/kvasir_boxes_second_round). Nothing was varied.
title = "Polyp boxes, 10 % of Kvasir-SEG's labels: a larger teacher with the same labels first"
config = 'configs/mmkd/studies/kvasir_boxes_teacher_first.py'
_alone = {
    'pretrain': None,
    'model.sharing.type': 'individual',
    'model.members.teacher': None,
    'unlabeled_dataloader': None,
}
_epochs = 180  # four times those of the students, about the compute of both stages
arms = dict(
    labels_only=_alone,
    taught={},
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
    labels_only_long='the same two students alone, about equal compute',
)
primary = dict(metric='polyp/ap50', members=['student1', 'student2'], direction='higher')
metrics = ['polyp/best_f1', 'coco/bbox_mAP']
seeds = [40, 41, 42, 43, 44]
seed_keys = ['train_dataloader.dataset.seed', 'unlabeled_dataloader.dataset.seed']
comparisons = [
    dict(arm='taught', at_least=1.0, text='The students gain a point of AP50.'),
    dict(arm='taught', members=['ensemble'], at_least=1.0, text='Their ensemble, too.'),
    dict(arm='taught', control='labels_only_long', text='Students at equal compute.'),
    dict(
        arm='taught',
        control='labels_only_long',
        members=['ensemble'],
        text='The ensemble at equal compute.',
    ),
]
test = 't'
budget = dict(text='four hours on one CPU core', max_minutes=90)
hypotheses = """
A second round of equal detectors gained nothing, since their ensemble was no better than they were
(docs/studies/kvasir_boxes_second_round). A larger detector that sees the images twice as large is
better with the same 90 labels; frozen, it tells two small ones on all images what the labels do
not. They gain a point of AP50 or more, and so does their ensemble, with no label more.
"""
