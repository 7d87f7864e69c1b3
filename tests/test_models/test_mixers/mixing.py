"""Small members and batches of each task for the mixers' tests."""

from contextlib import contextmanager

import torch
from mmengine.structures import PixelData

CLS = dict(
    type='ClsDataPreprocessor', mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], to_rgb=True
)
SEG = dict(
    type='SegDataPreProcessor',
    size=(64, 64),
    mean=[120.0, 110.0, 100.0],
    std=[60.0, 55.0, 50.0],
    bgr_to_rgb=True,
)
CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
SWIN = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
UNET = 'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py'


def cifar(seed=1, classes=3, options=None, **kwargs):
    """A ResNet of four channels at its stem."""
    own = {
        'data_preprocessor': dict(CLS),
        'backbone.base_channels': 4,
        'backbone.stem_channels': 4,
        'head.in_channels': 32,
        'head.num_classes': classes,
        'head.topk': (1,),
    }
    return dict(dict(config=CIFAR, options=dict(own, **(options or {})), seed=seed), **kwargs)


def swin(seed=1, classes=3):
    options = {
        'data_preprocessor': dict(CLS),
        'train_cfg': None,
        'backbone.img_size': 32,
        'backbone.drop_path_rate': 0.0,
        'backbone.arch': dict(
            embed_dims=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 4], _delete_=True
        ),
        'backbone.window_size': 4,
        'backbone.pad_small_map': True,
        'head.in_channels': 64,
        'head.num_classes': classes,
        'head.topk': (1,),
        'head.loss': dict(type='CrossEntropyLoss', _delete_=True),
    }
    return dict(config=SWIN, options=options, seed=seed)


def vit(seed=1, classes=3):
    backbone = dict(
        type='VisionTransformer',
        img_size=32,
        patch_size=8,
        arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
    )
    head = dict(
        type='VisionTransformerClsHead',
        num_classes=classes,
        in_channels=16,
        topk=(1,),
        loss=dict(type='CrossEntropyLoss'),
    )
    return dict(
        config=dict(
            type='ImageClassifier', backbone=backbone, head=head, data_preprocessor=dict(CLS)
        ),
        seed=seed,
    )


def multi_label(seed=1, classes=4):
    backbone = dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)
    head = dict(type='MultiLabelLinearClsHead', num_classes=classes, in_channels=32)
    return dict(
        config=dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=head,
            data_preprocessor=dict(CLS),
        ),
        seed=seed,
    )


def unet(seed=1, options=None):
    own = {
        'data_preprocessor': dict(SEG),
        'backbone.base_channels': 4,
        'backbone.norm_cfg.type': 'BN',
        'backbone.num_stages': 3,
        'backbone.strides': (2, 1, 1),
        'backbone.enc_num_convs': (1, 1, 1),
        'backbone.dec_num_convs': (1, 1),
        'backbone.downsamples': (True, True),
        'backbone.enc_dilations': (1, 1, 1),
        'backbone.dec_dilations': (1, 1),
        'decode_head.norm_cfg.type': 'BN',
        'decode_head.in_index': 2,
        'decode_head.in_channels': 4,
        'decode_head.channels': 4,
        'decode_head.num_classes': 2,
        'decode_head.dropout_ratio': 0,
        'auxiliary_head.in_index': 1,
        'auxiliary_head.in_channels': 8,
        'auxiliary_head.channels': 4,
        'auxiliary_head.norm_cfg.type': 'BN',
        'auxiliary_head.num_classes': 2,
        'auxiliary_head.dropout_ratio': 0,
        'test_cfg.mode': 'whole',
    }
    return dict(config=UNET, options=dict(own, **(options or {})), seed=seed)


def segformer(seed=1):
    options = {
        'data_preprocessor': dict(SEG),
        'backbone.init_cfg': None,
        'backbone.embed_dims': 8,
        'backbone.num_layers': [1] * 4,
        'backbone.drop_path_rate': 0.0,
        'decode_head.in_channels': [8, 16, 40, 64],
        'decode_head.channels': 16,
        'decode_head.num_classes': 2,
        'decode_head.norm_cfg.type': 'BN',
        'decode_head.dropout_ratio': 0,
    }
    return dict(config=SEGFORMER, options=options, seed=seed)


def images(n, size, generator):
    return [
        torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        for _ in range(n)
    ]


def labelled(labels, size=32, seed=0, classes=3):
    """A batch as mmpretrain collates it; `labels` are ints or lists of ints."""
    from mmpretrain.structures import DataSample

    samples = [
        DataSample(
            metainfo=dict(img_shape=(size, size), ori_shape=(size, size), num_classes=classes)
        ).set_gt_label(label)
        for label in labels
    ]
    return dict(
        inputs=images(len(labels), size, torch.Generator().manual_seed(seed)), data_samples=samples
    )


def label_maps(n=4, size=64, seed=0, ignored=False):
    """A batch as mmseg collates it, of two classes; with `ignored`, each map has a block of 255."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    batch = dict(inputs=images(n, size, generator), data_samples=[])
    for i in range(n):
        coarse = torch.randint(0, 2, (1, 1, 8, 8), generator=generator)
        labels = torch.nn.functional.interpolate(coarse.float(), (size, size)).long()[0]
        if ignored:
            labels[:, 8 * i : 8 * i + 8] = 255
        sample = SegDataSample(
            metainfo=dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
        )
        sample.gt_sem_seg = PixelData(data=labels)
        batch['data_samples'].append(sample)
    return batch


@contextmanager
def spy_loss():
    """Register a loss `SpyLoss` and yield the list of what links hand it: target, source, mask."""
    from mmkd.registry import MODELS

    seen = []

    class SpyLoss(torch.nn.Module):
        def forward(self, target, source, mask=None):
            seen.append((target, source, mask))
            return (target - source).square().mean()

    MODELS.register_module(module=SpyLoss)
    try:
        yield seen
    finally:
        MODELS.module_dict.pop('SpyLoss')
