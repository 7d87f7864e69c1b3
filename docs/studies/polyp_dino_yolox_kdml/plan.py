# Nothing was tuned: weights, ramp and temperature are the preset's and the config's.
title = (
    'A DINO and two YOLOX on Kvasir-SEG: an online teacher of another family and a peer, or alone'
)
config = 'configs/mmkd/studies/polyp_dino_yolox_kdml.py'
arms = dict(
    individual={'model.sharing.type': 'individual'},
    kdml_p={'model.sharing.type': 'kdml_p'},
)
control = 'individual'
controls = dict(individual='the same teacher and students, each alone, equal steps')
primary = dict(metric='coco/bbox_mAP_50', members=['student1', 'student2'], direction='higher')
metrics = ['coco/bbox_mAP']
seeds = [0, 1]
comparisons = [
    dict(arm='kdml_p', text='Links help the students.'),
    dict(arm='kdml_p', members=['ensemble'], text='And their ensemble.'),
]
test = 't'
budget = dict(text='two hours on one CPU core', max_minutes=90)
hypotheses = """
The teacher's boxes are a second truth for the students once its scores pass 0.3; the students
compare each other position by position. A DINO learns slowly, so within 678 iterations the peers
should do most of what there is. Two seeds show a gain of many points at best: this is a table of
the members, not a proof.
"""
