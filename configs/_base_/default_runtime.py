# What makes any MM config an mmkd one: the import, one evaluation for all members, an optimizer for
# each, their states.
default_scope = 'mmdet'
custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)

val_cfg = dict(type='mmkd.MemberValLoop')
test_cfg = dict(type='mmkd.MemberTestLoop')
custom_hooks = [
    dict(type='mmkd.MemberHook'),
    dict(type='mmkd.PreemptionHook'),
    dict(type='mmkd.UnreadableHook'),
    dict(type='mmkd.BestMemberHook', metric='coco/bbox_mAP'),
]

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmkd.SafeCheckpointHook',
        interval=1,
        max_keep_ckpts=2,
        save_best='ensemble/coco/bbox_mAP',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='mmkd.MemberLogProcessor', window_size=20, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
