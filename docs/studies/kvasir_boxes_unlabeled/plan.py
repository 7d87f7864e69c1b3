# The teacher once, before:
#   python tools/train.py configs/mmkd/studies/kvasir_boxes_teacher.py \
#       --work-dir work_dirs/studies/kvasir_boxes_teacher
title = "Polyp boxes, 10 % of Kvasir-SEG's labels: a frozen teacher on all images"
config = 'configs/mmkd/studies/kvasir_boxes_unlabeled.py'
_alone = {'model.sharing.type': 'individual', 'model.members.teacher': None}
_epochs = 90
arms = dict(
    labels_only=_alone,
    kd_p_both={'model.sharing.on': 'both'},
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
metrics = ['polyp/f1', 'coco/bbox_mAP']
seeds = [0, 1, 2, 3, 4]
seed_keys = ['train_dataloader.dataset.seed', 'unlabeled_dataloader.dataset.seed']
comparisons = [
    dict(arm='kd_p_both', members=['student1'], at_least=1.0, text='Student 1 gains.'),
    dict(arm='kd_p_both', members=['student2'], at_least=1.0, text='Student 2 gains.'),
    dict(arm='kd_p_both', members=['ensemble'], at_least=1.0, text='Their ensemble gains.'),
    dict(arm='kd_p_both', control='labels_only_long', text='Also at equal compute.'),
]
test = 't'
budget = dict(text='two and a half hours on one CPU core', max_minutes=60)
hypotheses = """
The teacher was trained with the boxes of 800 of the 900 training images, so this asks how much of a
trained detector reaches students that have 90 images with boxes. Position by position it says more
than boxes do, and on the 810 unlabeled images it says what the labels do not: the students gain a
point of AP50 or more, and so does their ensemble over that of independent students.
"""
