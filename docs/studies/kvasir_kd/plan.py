# Small students and a trained, frozen teacher. The teacher once, before:
#   python tools/train.py configs/mmkd/studies/kvasir_teacher_96.py --work-dir
# work_dirs/studies/kvasir_teacher
title = 'Kvasir-SEG: narrow U-Nets taught by a frozen teacher with an ImageNet encoder'
config = 'configs/mmkd/studies/kvasir_kd.py'
arms = dict(
    individual={'model.sharing.type': 'individual', 'model.members.teacher': None},
    kd_p={'model.sharing.type': 'kd_p'},
    kdml_p={'model.sharing.type': 'kdml_p'},
)
control = 'individual'
controls = dict(individual='the same two students alone, equal steps; their ensemble')
primary = dict(metric='polyp/dice', members=['student1', 'student2'], direction='higher')
metrics = ['polyp/iou', 'mDice']
seeds = [0, 1, 2, 3, 4]
comparisons = [
    dict(arm='kd_p', at_least=2.0, text='A frozen teacher adds 2 Dice.'),
    dict(arm='kdml_p', at_least=2.0, text='Teacher and peer add 2 Dice.'),
    dict(arm='kdml_p', members=['ensemble'], at_least=1.0, text='The ensemble gains, too.'),
]
test = 't'
budget = dict(text='about an hour on two CPU cores', max_minutes=60)
hypotheses = """
The students are trained for 12 epochs from scratch on all 900 labels and are far below the teacher,
whose ImageNet encoder they do not have. Its probabilities on the same images raise the mean polyp
Dice of both students by 2 points or more; the peer adds little.
"""
