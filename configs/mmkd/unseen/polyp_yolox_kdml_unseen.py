# KDML on PraNet's training images, measured on its five test sets: two of the hospitals that the
# training images come from (seen), three of others (unseen).
# Data: python tools/convert_polyp.py PRANET data/polyps --train-ratio 0.9
_base_ = '../polyp_yolox_kdml.py'
data_root = 'data/polyps/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
_sets = {
    name: dict(
        ann_file=f'annotations/test_{name}.json', data_prefix=dict(img=f'images/test_{name}/')
    )
    for name in ('Kvasir', 'CVC-ClinicDB', 'CVC-300', 'CVC-ColonDB', 'ETIS-LaribPolypDB')
}
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmkd.SeenUnseen',
        dataset=dict(
            type='mmkd.PolypDetection',
            data_root=data_root,
            test_mode=True,
            pipeline=_base_.val_pipeline,
        ),
        seen={name: _sets[name] for name in ('Kvasir', 'CVC-ClinicDB')},
        unseen={name: _sets[name] for name in ('CVC-300', 'CVC-ColonDB', 'ETIS-LaribPolypDB')},
    )
)
test_evaluator = dict(
    _delete_=True,
    type='mmkd.SeenUnseenEvaluator',
    metrics=[dict(type='mmkd.PolypDetMetric')],
    figures=[
        'polyp/ap50',
        'polyp/best_f1',
        'polyp/precision',
        'polyp/recall',
        'polyp/f1',
        'polyp/fp_per_frame',
    ],
)
