# Nothing was tuned: weights, ramp and temperature are the preset's and the config's.
title = 'Faster R-CNNs on Kvasir-SEG: an online teacher and a peer, or alone'
config = 'configs/mmkd/studies/polyp_fasterrcnn_kdml.py'
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
    dict(arm='kdml_p', text='Links by proposals help the students.'),
    dict(arm='kdml_p', members=['ensemble'], text='And their ensemble.'),
]
test = 't'
budget = dict(text='an hour and a half on one CPU core', max_minutes=90)
hypotheses = """
Both second stages score the target's proposals, so a student of 678 iterations learns from softer
targets than labels. Two seeds show a gain of many points at best: this is a table of the members,
not a proof.
"""
