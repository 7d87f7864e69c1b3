# The arms of iekd_study.py: narrow ResNets on 20 classes of Tiny-ImageNet at 32 px.
title = 'IE-KD on Tiny-ImageNet-20, 3 epochs'
config = 'configs/mmkd/iekd_study.py'


def _links(**weights):
    return [
        dict(
            source='teacher',
            target='student1',
            tap='feature',
            name='ie',
            weight=0.02,
            loss=dict(type='InheritExploreLoss', **weights),
            connector=dict(type='InheritExplore'),
            source_connector=dict(type='FactorAutoEncoder', joint=True),
        )
    ]


arms = dict(
    baseline={'model.links': []},
    ie={'model.links': _links()},
    inherit={'model.links': _links(explore_weight=0)},
    explore={'model.links': _links(inherit_weight=0)},
)
control = 'baseline'
controls = dict(baseline='the same student alone, equal steps')
primary = dict(metric='accuracy/top1', members=['student1'])
seeds = [0, 1, 2]
budget = dict(text='three seeds, small networks, two CPU cores', max_minutes=30)
hypotheses = """
IE-KD, and each of its halves, raises the student's accuracy.
"""
