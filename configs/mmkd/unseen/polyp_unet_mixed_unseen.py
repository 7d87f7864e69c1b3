# Mixed sharing on PraNet's training images, measured on its five test sets: two of the hospitals
# that the training images come from (seen), three of others (unseen).
# Data: python tools/convert_polyp.py PRANET data/polyps --train-ratio 0.9
_base_ = '../polyp_unet_mixed.py'
data_root = 'data/polyps/'
train_dataloader = dict(dataset=dict(data_root=data_root, img_suffix='.png'))
val_dataloader = dict(dataset=dict(data_root=data_root, img_suffix='.png'))
_sets = {
    name: dict(data_prefix=dict(img_path=f'images/test_{name}', seg_map_path=f'masks/test_{name}'))
    for name in ('Kvasir', 'CVC-ClinicDB', 'CVC-300', 'CVC-ColonDB', 'ETIS-LaribPolypDB')
}
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmkd.SeenUnseen',
        dataset=dict(
            type='mmkd.PolypSegmentation',
            data_root=data_root,
            img_suffix='.png',
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
    metrics=[dict(type='mmkd.PolypSegMetric')],
)
