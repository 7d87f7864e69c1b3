# The built-in synthetic frames at 128 px; data: python tools/make_synthetic.py
_base_ = './kvasir_detection.py'
data_root = 'data/synthetic_polyps/'
train_pipeline = [
    dict(step, scale=(128, 128)) if step['type'] == 'Resize' else step
    for step in _base_.train_pipeline
]
val_pipeline = [
    dict(step, scale=(128, 128)) if step['type'] == 'Resize' else step
    for step in _base_.val_pipeline
]
train_dataloader = dict(batch_size=16, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(data_root=data_root, pipeline=val_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
