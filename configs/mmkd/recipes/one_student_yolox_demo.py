# one_student_yolox_cpu.py on synthetic frames, with the settings of polyp_yolox_kdml_demo.py.
# Data: python tools/make_synthetic.py
_base_ = './one_student_yolox_cpu.py'
data_root = 'data/synthetic_polyps/'
_size = (96, 96)
_train, _unlabeled, _val = (
    [dict(step, **{key: _size for key in ('scale', 'size') if key in step}) for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_._unlabeled_pipeline, _base_.val_pipeline)
)
_gn = dict(_delete_=True, type='GN', num_groups=8)
_norm = {'backbone.norm_cfg': _gn, 'neck.norm_cfg': _gn, 'bbox_head.norm_cfg': _gn}
model = dict(members={name: dict(options=_norm) for name in ('student1', 'student2', 'student')})
_loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
_images = dict(data_root=data_root, pipeline=_train)
_others = dict(data_root=data_root, pipeline=_unlabeled)
train_dataloader = dict(_loader, dataset=dict(dataset=_images))
unlabeled_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(dataset=_others))
val_dataloader = dict(_loader, dataset=dict(data_root=data_root, pipeline=_val))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
_epochs = 32  # of 20 iterations
train_cfg = dict(max_epochs=_epochs, val_interval=8)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', T_max=_epochs, eta_min=5e-5, convert_to_iter_based=True),
]
# Too short for YOLOX's last phase.
custom_hooks = [hook for hook in _base_.custom_hooks if hook['type'] != 'mmkd.L1PhaseHook']
