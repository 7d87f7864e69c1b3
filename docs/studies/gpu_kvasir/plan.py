# For one GPU (tools/gpu_study.sh): docs/studies/kvasir_unlabeled at 256 px and 3000 iterations.
title = 'Kvasir-SEG at 256 px, 10 % labels: peers and averages on the unlabeled images'
config = 'configs/mmkd/studies/kvasir_unlabeled.py'
_size = (256, 256)
_epochs = 273  # of 11 iterations
changes = {
    'model.data_preprocessor.size': _size,
    'train_dataloader.dataset.dataset.pipeline.2.scale': _size,
    'train_dataloader.dataset.dataset.pipeline.3.crop_size': _size,
    'unlabeled_dataloader.dataset.dataset.pipeline.1.scale': _size,
    'val_dataloader.dataset.pipeline.1.scale': _size,
    'test_dataloader.dataset.pipeline.1.scale': _size,
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
]
test = 't'
budget = dict(text='fifteen minutes on one large GPU, five runs side by side', max_minutes=30)
hypotheses = """
As in docs/studies/kvasir_unlabeled: 5 points of polyp Dice or more.
"""
