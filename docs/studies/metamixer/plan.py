# The arms of metamixer_study.py: two narrow ResNets on 20 classes of Tiny-ImageNet at 32 px.
title = 'MetaMixer on Tiny-ImageNet-20, 3 epochs'
config = 'configs/mmkd/metamixer_study.py'
arms = dict(
    baseline={'model.mixer': None, 'model.sharing.type': 'individual'},
    ml={'model.mixer': None},
    local_only={'model.mixer.global_prob': 0.0},
    global_only={'model.mixer.local_prob': 0.0},
    metamixer={},
)
control = 'baseline'
controls = dict(
    baseline='the same networks alone, equal steps; their ensemble', ml='sharing without mixing'
)
primary = dict(metric='accuracy/top1', members=['student1', 'student2'])
seeds = [0, 1, 2]
budget = dict(text='three seeds, small networks, two CPU cores', max_minutes=30)
hypotheses = """
MetaMixer, and each of its stages, raises the students' mean accuracy.
"""
