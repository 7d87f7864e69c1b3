# One ResNet student of msi_resnet_kdml_study.py, 3 epochs, guided by correlations;
# docs/studies/student_centric has the arms.
_base_ = './msi_resnet_kdml_study.py'


def _link(loss, connector, weight=2.0):
    return dict(
        source='teacher',
        target='student1',
        tap='feature',
        name=loss[:7].lower(),
        weight=weight,
        loss=dict(type=loss),
        connector=connector,
    )


_channel = _link('ChannelCorrelation', [dict(type='ConvConnector')])
_spatial = _link('SpatialCorrelation', None)
_both = [_channel, _spatial]
model = dict(
    members=dict(student2=None), sharing=None, links=_both, ensemble=dict(members=['student1'])
)
