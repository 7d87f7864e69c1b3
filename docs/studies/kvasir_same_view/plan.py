# Tuned on 100 held-out training images with seed 101, 80 labels and a teacher of 84.8 that was
# trained on 800, one run an arm, mean of both students: alone 71.9; taught on the strong view (as in
# docs/studies/kvasir_kd_unlabeled) 76.1; on the same view 79.4; the same with resized and cropped
# unlabeled images 79.0; alone with all 800 labels for as many iterations 78.6. Peers and features
# were not tuned.
# The teacher once, before:
#   python tools/train.py configs/mmkd/studies/kvasir_teacher_96.py \
#       --work-dir work_dirs/studies/kvasir_teacher
title = 'Kvasir-SEG, 10 % labels: a frozen teacher and its students see unlabeled images alike'
config = 'configs/mmkd/studies/kvasir_kd_unlabeled.py'
_alone = {
    'model.sharing.type': 'individual',
    'model.members.teacher': None,
    'unlabeled_dataloader': None,
}
_same = {'model.sharing.on': 'both', 'model.strong_view': dict(_delete_=True, type='SameView')}
_epochs = 110  # in about the time of the arms with unlabeled images
arms = dict(
    labels_only=_alone,
    strong_view={'model.sharing.on': 'both'},
    same_view=_same,
    kdml_p={**_same, 'model.sharing.type': 'kdml_p'},
    kdml_mixed_full={
        **_same,
        'model.sharing.type': 'kdml_mixed_full',
        'model.sharing.feature': dict(type='PearsonFeature'),
    },
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
    strong_view='the same teacher, students see the strong view',
)
primary = dict(metric='polyp/dice', members=['student1', 'student2'], direction='higher')
metrics = ['polyp/iou', 'mDice']
seeds = [70, 71, 72, 73, 74]
seed_keys = ['train_dataloader.dataset.seed', 'unlabeled_dataloader.dataset.seed']
comparisons = [
    dict(arm='same_view', at_least=5.0, text='The teacher adds 5 Dice to labels only.'),
    dict(arm='same_view', control='strong_view', at_least=1.0, text='The view makes it.'),
    dict(arm='same_view', members=['ensemble'], at_least=2.0, text='The ensemble gains, too.'),
    dict(arm='same_view', control='labels_only_long', at_least=2.0, text='Also at equal compute.'),
    dict(arm='kdml_p', control='same_view', text='What peers add beside the teacher.'),
    dict(arm='kdml_mixed_full', control='same_view', text='What peers and features add.'),
]
test = 't'
budget = dict(text='four hours on one CPU core', max_minutes=60)
hypotheses = """
A teacher that is ten points better than its students tells them more about the very images that
they see than about strongly changed ones: with the same view they gain 5 points of polyp Dice over
labels alone, at least one more than with the strong view. (The teacher has the labels of all 900
images, so this asks how much of it reaches students with 90.)
"""
