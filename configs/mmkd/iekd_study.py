# What tools/study.py trains many times: one ResNet student of msi_resnet_kdml_study.py, 3 epochs, under IE-KD and its halves.
_base_ = './msi_resnet_kdml_study.py'


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


model = dict(
    members=dict(student2=None), sharing=None, links=_links(), ensemble=dict(members=['student1'])
)
variants = dict(
    baseline={'model.links': []},
    ie={'model.links': _links()},
    inherit={'model.links': _links(explore_weight=0)},
    explore={'model.links': _links(inherit_weight=0)},
)
