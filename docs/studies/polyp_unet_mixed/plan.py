# The presets on Kvasir-SEG: narrow U-Nets at 64 px, 8 epochs from scratch.
title = 'Presets of sharing on Kvasir-SEG, 8 epochs'
config = 'configs/mmkd/polyp_unet_mixed_study.py'
arms = dict(
    individual={'model.sharing.type': 'individual'},
    kd_p={'model.sharing.type': 'kd_p'},
    ml_p={'model.sharing.type': 'ml_p', 'model.members.teacher': None},
    kdml_p={'model.sharing.type': 'kdml_p'},
    kdml_f={'model.sharing.type': 'kdml_f'},
    kdml_mixed_complement={'model.sharing.type': 'kdml_mixed_complement'},
    kdml_mixed_full={'model.sharing.type': 'kdml_mixed_full'},
)
control = 'individual'
controls = dict(individual='the same networks alone, equal steps; their ensemble')
primary = dict(metric='mDice', members=['student1', 'student2'])
metrics = ['mIoU']
seeds = [0, 1, 2]
budget = dict(text='three seeds, small networks, two CPU cores', max_minutes=30)
hypotheses = """
Each preset raises the students' mean Dice over training alone.
"""
