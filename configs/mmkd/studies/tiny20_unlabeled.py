# 100 labeled images a class of Tiny-ImageNet-20 and the other 6000 without labels
# (docs/studies/tiny20_unlabeled): two narrow ResNets learn from the mean of their moving averages
# and from each other, on all images, in one training.
_base_ = './tiny20_peers.py'
_labeled = dict(_base_.train_dataloader.dataset)
model = dict(
    members=dict(teacher=None),
    sharing=dict(
        type='peers_ema',
        on='both',
        prediction=dict(type='KLDivergence', tau=3.0),
    ),
)
unlabeled_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(_labeled, complement=True),
)
