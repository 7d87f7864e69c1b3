# For one GPU (tools/gpu_study.sh): docs/studies/kvasir_unlabeled at 256 px and 3000 iterations,
# with a CNN from ImageNet and a transformer from scratch (no package has weights of one).
title = 'Kvasir-SEG at 256 px, 10 % labels: a CNN, a transformer and their averages as peers'
config = 'configs/mmkd/studies/kvasir_unlabeled.py'
_size = (256, 256)
_epochs = 273  # of 11 iterations
_transformer = dict(
    _delete_=True,
    config='mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    options={
        'backbone.init_cfg': None,
        'decode_head.num_classes': 2,
        'decode_head.norm_cfg.type': 'BN',
        # Those of the CNN: Dice of the polyp alone.
        'decode_head.loss_decode': [
            dict(type='CrossEntropyLoss', loss_name='loss_ce'),
            dict(
                type='DiceLoss',
                loss_name='loss_dice',
                use_sigmoid=False,
                naive_dice=True,
                ignore_index=0,
            ),
        ],
    },
)
changes = {
    'model.members.student2': _transformer,
    'model.data_preprocessor.size': _size,
    'train_dataloader.dataset.dataset.pipeline.2.scale': _size,
    'train_dataloader.dataset.dataset.pipeline.3.crop_size': _size,
    'unlabeled_dataloader.dataset.dataset.pipeline.1.scale': _size,
    'val_dataloader.dataset.pipeline.1.scale': _size,
    'test_dataloader.dataset.pipeline.1.scale': _size,
    'train_dataloader.num_workers': 2,
    'train_dataloader.persistent_workers': True,
    'unlabeled_dataloader.num_workers': 2,
    'unlabeled_dataloader.persistent_workers': True,
    'optim_wrapper.type': 'AmpOptimWrapper',
    'optim_wrapper.dtype': 'bfloat16',
    'optim_wrapper.members': dict(student2=dict(optimizer=dict(lr=3e-4))),
    'train_cfg.max_epochs': _epochs,
    'train_cfg.val_interval': _epochs,
    'param_scheduler.1.T_max': _epochs,
}
arms = dict(
    labels_only={'model.sharing.type': 'individual'},
    peers_ema={'model.sharing.type': 'peers_ema'},
)
control = 'labels_only'
controls = dict(labels_only='the same two students alone, equal steps; their ensemble')
primary = dict(metric='polyp/dice', members=['student1', 'student2'])
metrics = ['polyp/iou', 'mDice']
seeds = [0, 1, 2, 3, 4]
seed_keys = ['train_dataloader.dataset.seed', 'unlabeled_dataloader.dataset.seed']
comparisons = [
    dict(arm='peers_ema', at_least=5.0, text='Peers and averages add 5 Dice to labels only.'),
    dict(arm='peers_ema', members=['student1'], text='Also to the CNN, the better student.'),
    dict(arm='peers_ema', members=['ensemble'], text='Also to the ensemble.'),
]
test = 't'
budget = dict(text='estimated: fourteen minutes on one large GPU, six side by side', max_minutes=30)
hypotheses = """
The CNN has seen ImageNet and teaches the transformer, which has not, on 810 unlabeled images: 5
points of polyp Dice or more on the average of both. The CNN gains less, at most 2 points.
"""
