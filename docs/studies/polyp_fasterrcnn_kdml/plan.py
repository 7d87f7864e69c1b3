# Nothing was tuned: weights, ramp and temperature are the preset's and the config's. Earlier runs
# of 678 iterations are gone: RoIAlign misread the backbones' channels-last maps, nobody learned.
# The length was chosen after one run of the control (seed 0), which had learned by then.
# `kdml_p_share` was added after the runs of the first two arms, which showed that links at weight 1
# cost 5 points: their terms are 70 to 80 % of a student's loss.
title = 'Faster R-CNNs on Kvasir-SEG: an online teacher and a peer, or alone'
config = 'configs/mmkd/studies/polyp_fasterrcnn_kdml.py'
arms = dict(
    individual={'model.sharing.type': 'individual'},
    kdml_p={'model.sharing.type': 'kdml_p'},
    kdml_p_share={
        'model.sharing.type': 'kdml_p',
        'model.sharing.weight': dict(_delete_=True, type='GradientShare', share=0.1),
    },
)
control = 'individual'
controls = dict(individual='the same teacher and students, each alone, equal steps')
primary = dict(metric='coco/bbox_mAP_50', members=['student1', 'student2'], direction='higher')
metrics = ['coco/bbox_mAP']
seeds = [0, 1, 2, 3, 4]
comparisons = [
    dict(arm='kdml_p', text='Links by proposals help the students.'),
    dict(arm='kdml_p', members=['ensemble'], text='And their ensemble.'),
    dict(arm='kdml_p_share', text='Links of a tenth of the gradient each.'),
]
test = 't'
budget = dict(text='an hour on one CPU core', max_minutes=90)
hypotheses = """
Both second stages score the target's proposals, so a student of 226 iterations learns from softer
targets than labels. The teacher learns online and is hardly better than the students by then, so
a gain would be small, and five seeds may not show it.
"""
