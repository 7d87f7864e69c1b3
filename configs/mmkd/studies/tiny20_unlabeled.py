# Two peers with 100 labels a class of Tiny-ImageNet-20, the other 6000 images without labels
# (docs/studies/tiny20_unlabeled). Without `unlabeled_dataloader` the two learn from the labels alone.
_base_ = './tiny20_peers.py'
model = dict(members=dict(teacher=None))
unlabeled_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(_base_.train_dataloader.dataset, complement=True),
)
