# As default_runtime.py, for MMPretrain.
_base_ = './default_runtime.py'
default_scope = 'mmpretrain'
custom_hooks = [
    dict(type='mmkd.MemberHook'),
    dict(type='mmkd.PreemptionHook'),
    dict(type='mmkd.UnreadableHook'),
    dict(type='mmkd.BestMemberHook', metric='accuracy/top1'),
]
default_hooks = dict(
    checkpoint=dict(save_best='ensemble/accuracy/top1'),
    visualization=dict(type='VisualizationHook'),
)
visualizer = dict(type='UniversalVisualizer')
tta_model = dict(type='AverageClsScoreTTA')
