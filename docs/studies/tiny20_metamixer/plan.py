# Not tuned: the loss and tau of docs/studies/tiny20_peers, the mixer with its defaults.
title = 'Tiny-ImageNet-20 with 100 images a class: MetaMixer between peers, 60 epochs'
config = 'configs/mmkd/studies/tiny20_peers.py'
_peers = {'model.sharing.type': 'ml_p', 'model.sharing.tau': 3.0, 'model.members.teacher': None}
arms = dict(
    individual={'model.sharing.type': 'individual', 'model.members.teacher': None},
    ml_p=_peers,
    metamixer={**_peers, 'model.mixer': dict(type='MetaMixer', depths=(0, 1, 2, 3))},
)
control = 'ml_p'
controls = dict(
    ml_p='sharing without mixing, equal steps',
    individual='the same two students alone, equal steps; their ensemble',
)
primary = dict(metric='accuracy/top1', members=['student1', 'student2'], direction='higher')
seeds = [20, 21, 22, 23, 24]
seed_keys = ['train_dataloader.dataset.seed']
comparisons = [
    dict(arm='metamixer', at_least=1.0, text='Mixing adds a point to peers.'),
    dict(arm='metamixer', members=['ensemble'], text='The ensemble gains, too.'),
    dict(arm='metamixer', control='individual', at_least=1.0, text='Over students alone.'),
    dict(
        arm='metamixer',
        control='individual',
        members=['ensemble'],
        at_least=1.0,
        text='Over the ensemble of independent students.',
    ),
]
test = 't'
budget = dict(text='two hours on one CPU core', max_minutes=60)
hypotheses = """
MetaMixer (arXiv 2303.07951) is a regularizer, so it acts where networks overfit: with 100 images a
class and 60 epochs it raises the mean top-1 of two students that learn from each other by a point,
and that of their ensemble.
"""
