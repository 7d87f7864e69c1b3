# One ResNet student of msi_resnet_kdml_study.py, 3 epochs, under IE-KD;
# docs/studies/iekd has the arms.
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
