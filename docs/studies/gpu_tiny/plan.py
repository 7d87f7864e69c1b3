# For one GPU (tools/gpu_study.sh): the classic claim of mutual learning, long enough to show.
title = 'Tiny-ImageNet-20, 100 epochs: a teacher and a peer against training alone'
config = 'configs/mmkd/msi_resnet_kdml_study.py'
_epochs = 100  # of 62 iterations
changes = {
    'model.channels_last': True,
    'optim_wrapper.type': 'AmpOptimWrapper',
    'optim_wrapper.dtype': 'bfloat16',
    'train_dataloader.batch_size': 128,
    'train_dataloader.num_workers': 2,
    'train_cfg.max_epochs': _epochs,
    'train_cfg.val_interval': _epochs,
    'param_scheduler.1.T_max': _epochs,
}
arms = dict(
    individual={'model.sharing.type': 'individual'},
    kdml_p={'model.sharing.type': 'kdml_p'},
)
control = 'individual'
controls = dict(individual='the same networks alone, equal steps; their ensemble')
primary = dict(metric='accuracy/top1', members=['student1', 'student2'])
seeds = list(range(10))
comparisons = [
    dict(arm='kdml_p', at_least=1.0, text='A teacher and a peer add a point.'),
    dict(arm='kdml_p', members=['ensemble'], text='Also to the ensemble.'),
]
budget = dict(text='estimated: eighteen minutes on one large GPU, six side by side', max_minutes=30)
hypotheses = """
With 100 epochs the students fit their labels, and the predictions of a larger network and of a peer
regularize them: one point or more of accuracy.
"""
