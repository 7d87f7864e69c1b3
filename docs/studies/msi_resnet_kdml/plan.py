# The presets on 20 classes of Tiny-ImageNet: narrow ResNets at 32 px, 3 epochs from scratch.
title = 'Presets of sharing on Tiny-ImageNet-20, 3 epochs'
config = 'configs/mmkd/msi_resnet_kdml_study.py'
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
primary = dict(metric='accuracy/top1', members=['student1', 'student2'])
seeds = [0, 1, 2]
budget = dict(text='three seeds, small networks, two CPU cores', max_minutes=30)
hypotheses = """
Each preset raises the students' mean accuracy over training alone.
"""
