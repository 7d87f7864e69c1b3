# The teacher once, before:
#   python tools/train.py configs/mmkd/studies/kvasir_teacher_96.py \
#       --work-dir work_dirs/studies/kvasir_teacher
title = 'Kvasir-SEG, 10 % labels: a frozen teacher on the labeled and on the unlabeled images'
config = 'configs/mmkd/studies/kvasir_kd_unlabeled.py'
arms = dict(
    labels_only={'model.sharing.type': 'individual', 'model.members.teacher': None},
    kd_p={'model.sharing.on': 'labeled'},
    kd_p_both={'model.sharing.on': 'both'},
)
control = 'labels_only'
controls = dict(
    labels_only='the same two students alone, equal steps; their ensemble',
    kd_p='the same teacher on the 90 labeled images alone',
)
primary = dict(metric='polyp/dice', members=['student1', 'student2'], direction='higher')
metrics = ['polyp/iou', 'mDice']
seeds = [0, 1, 2, 3, 4]
seed_keys = ['train_dataloader.dataset.seed', 'unlabeled_dataloader.dataset.seed']
comparisons = [
    dict(arm='kd_p_both', at_least=5.0, text='The teacher adds 5 Dice to labels only.'),
    dict(arm='kd_p_both', control='kd_p', at_least=1.0, text='Unlabeled images are what adds.'),
    dict(arm='kd_p_both', members=['ensemble'], at_least=2.0, text='The ensemble gains, too.'),
    dict(arm='kd_p', text='The teacher on labeled images alone.'),
]
test = 't'
budget = dict(text='an hour and a half on two CPU cores', max_minutes=60)
hypotheses = """
The teacher was trained with the labels of all 900 images, so this is not learning from few labels
alone: it asks how much of a trained teacher reaches students that have 90 labels. On the 90 labeled
images it tells them little that the labels do not; on the 810 unlabeled ones it raises their polyp
Dice by 5 points or more.
"""
