# What tools/study.py trains many times: one ResNet student of msi_resnet_kdml_study.py, 3 epochs, guided by correlations.
# `wide` students have 80 channels where the others have 64; no link reads the last 16 of them.
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


_wide = {'backbone.base_channels': 10, 'backbone.stem_channels': 10, 'head.in_channels': 80}
_guided = dict(type='ChannelSplit', part='inherit', ratio=0.8)
_channel = _link('ChannelCorrelation', [dict(type='ConvConnector')])
_spatial = _link('SpatialCorrelation', None)
_both = [_channel, _spatial]
_both_guided = [
    _link('ChannelCorrelation', [_guided, dict(type='ConvConnector')]),
    _link('SpatialCorrelation', _guided),
]
model = dict(
    members=dict(student2=None), sharing=None, links=_both, ensemble=dict(members=['student1'])
)
variants = dict(
    baseline={'model.links': []},
    channel={'model.links': [_channel]},
    spatial={'model.links': [_spatial]},
    correlation={'model.links': _both},
    self_taught={'model.links': [], 'model.members.student1.options': _wide},
    all={'model.links': _both_guided, 'model.members.student1.options': _wide},
)
