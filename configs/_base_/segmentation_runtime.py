# As default_runtime.py, for MMSegmentation.
_base_ = './default_runtime.py'
default_scope = 'mmseg'
custom_hooks = [
    dict(type='mmkd.MemberHook'),
    dict(type='mmkd.PreemptionHook'),
    dict(type='mmkd.UnreadableHook'),
    dict(type='mmkd.BestMemberHook', metric='mDice'),
]
default_hooks = dict(
    checkpoint=dict(save_best='ensemble/mDice'), visualization=dict(type='SegVisualizationHook')
)
visualizer = dict(type='SegLocalVisualizer')
tta_model = dict(type='SegTTAModel')
