# The arms of student_centric_study.py: narrow ResNets on 20 classes of Tiny-ImageNet at 32 px.
# `wide` students have 80 channels where the others have 64; no link reads the last 16 of them.
title = 'Student-centric learning on Tiny-ImageNet-20, 3 epochs'
config = 'configs/mmkd/student_centric_study.py'


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
arms = dict(
    baseline={'model.links': []},
    channel={'model.links': [_channel]},
    spatial={'model.links': [_spatial]},
    correlation={'model.links': _both},
    self_taught={'model.links': [], 'model.members.student1.options': _wide},
    all={'model.links': _both_guided, 'model.members.student1.options': _wide},
)
control = 'baseline'
controls = dict(
    baseline='the same student alone, equal steps', self_taught='the wider student alone'
)
primary = dict(metric='accuracy/top1', members=['student1'])
seeds = [0, 1, 2]
budget = dict(text='three seeds, small networks, two CPU cores', max_minutes=30)
hypotheses = """
The correlations, self-taught channels, and all together raise the student's accuracy.
"""
