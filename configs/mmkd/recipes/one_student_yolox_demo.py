# one_student_yolox_cpu.py on synthetic frames.
# Data: python tools/make_synthetic.py
_base_ = './one_student_yolox_cpu.py'
data_root = 'data/synthetic_polyps/'
_loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(_loader, dataset=dict(dataset=dict(data_root=data_root)))
unlabeled_dataloader = dict(num_workers=0, dataset=dict(dataset=dict(data_root=data_root)))
val_dataloader = dict(_loader, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=8, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR', T_max=8, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
