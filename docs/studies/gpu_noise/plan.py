# For one GPU (tools/gpu_study.sh): docs/studies/tiny20_noise with twice the images and twice the
# width, on fresh seeds. mmkd has no JoCoR, which would be a further arm.
title = 'Tiny-ImageNet-20 with 40 % wrong labels, 200 images a class: peers, 60 epochs'
config = 'configs/mmkd/studies/tiny20_noise.py'
_epochs = 60  # of 31 iterations
_wide = {'backbone.base_channels': 16, 'backbone.stem_channels': 16, 'head.in_channels': 128}
changes = {
    'model.members.student1.options': _wide,
    'model.members.student2.options': _wide,
    'optim_wrapper.type': 'AmpOptimWrapper',
    'optim_wrapper.dtype': 'bfloat16',
    'train_dataloader.batch_size': 128,
    'train_dataloader.num_workers': 2,
    'train_dataloader.persistent_workers': True,
    'train_dataloader.dataset.count': 4000,
}
arms = dict(
    individual={'model.sharing.type': 'individual'},
    ml_p={'model.sharing.type': 'ml_p', 'model.sharing.tau': 3.0},
    individual_long={
        'model.sharing.type': 'individual',
        'train_cfg.max_epochs': 2 * _epochs,
        'train_cfg.val_interval': 2 * _epochs,
        'param_scheduler.1.T_max': 2 * _epochs,
    },
)
control = 'individual'
controls = dict(
    individual='the same two networks alone, equal steps; their ensemble',
    individual_long='the same alone, twice the steps',
)
primary = dict(metric='accuracy/top1', members=['student1', 'student2'])
seeds = [10, 11, 12, 13, 14]
seed_keys = ['train_dataloader.dataset.seed', 'train_dataloader.dataset.dataset.pipeline.0.seed']
comparisons = [
    dict(arm='ml_p', at_least=2.0, text='Peers help against wrong labels.'),
    dict(arm='ml_p', control='individual_long', text='Also against twice the steps.'),
    dict(arm='ml_p', members=['ensemble'], text='And their ensemble.'),
]
test = 't'
budget = dict(text='estimated: eight minutes on one large GPU, six side by side', max_minutes=20)
hypotheses = """
As in docs/studies/tiny20_noise, where peers added 2.1 points on one CPU core: two points of
accuracy or more, also for wider networks, which learn wrong labels by heart sooner.
"""
