"""Training on sets with cut image files: stop at the first, or put others in their place."""

import copy
import itertools
import os
import shutil
from pathlib import Path

import conftest
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from mmkd.datasets.unreadable import UnreadableImage, WholeImageBackend
from mmkd.export import plain_config
from mmkd.utils.images import image_problem

pytestmark = pytest.mark.usefixtures('unformatted_configs')
COUNTER = itertools.count()
TASKS = ('det', 'seg', 'cls')


@pytest.fixture(scope='module')
def damaged(data, tmp_path_factory):
    """The synthetic set as JPEG files, two of the training frames cut off and a third one empty."""
    import cv2

    root = tmp_path_factory.mktemp('damaged') / 'data'
    shutil.copytree(data, root)
    for path in root.glob('images/*/*.png'):
        cv2.imwrite(str(path.with_suffix('.jpg')), cv2.imread(str(path)))
        path.unlink()
    for name in (
        'annotations/train.json',
        'annotations/val.json',
        'labels/train.txt',
        'labels/val.txt',
    ):
        (root / name).write_text((root / name).read_text().replace('.png', '.jpg'))
    images = sorted(root.glob('images/train/*.jpg'))
    for path in images[2:4]:
        path.write_bytes(path.read_bytes()[:-100])
    images[7].write_bytes(b'')
    return root


def small(task, root, work_dir, skip=True, workers=0):
    """A config of three steps an epoch, two epochs, whose training set is wrapped."""
    if task == 'det':
        cfg = conftest.small_config(root, work_dir)
        cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset
    else:
        name = dict(seg='polyp_unet_mixed_demo', cls='msi_resnet_kdml_demo')[task]
        cfg = Config.fromfile(conftest.ROOT / f'configs/mmkd/{name}.py')
        narrow = {
            'seg': {
                'backbone.base_channels': 4,
                'decode_head.in_channels': 4,
                'decode_head.channels': 4,
            },
            'cls': {
                'backbone.base_channels': 4,
                'backbone.stem_channels': 4,
                'head.in_channels': 32,
            },
        }[task]
        for member in cfg.model.members.values():
            member.options.update(narrow)
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset = loader.dataset.get(
                'dataset', loader.dataset
            )  # without what balances the classes
            loader.batch_size, loader.dataset.data_root = 4, f'{root}/'
            loader.dataset.pop('img_suffix', None)
        if task == 'seg':
            cfg.train_dataloader.dataset.img_suffix = cfg.val_dataloader.dataset.img_suffix = '.jpg'
        cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.train_dataloader.num_workers = workers
    if skip:
        cfg.train_dataloader.dataset = dict(
            type='mmkd.SkipUnreadable', dataset=cfg.train_dataloader.dataset
        )
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.experiment_name = f'unreadable_{task}_{next(COUNTER)}_{os.getpid()}'
    return cfg


def weights(path):
    return torch.load(path, weights_only=False, map_location='cpu')['state_dict']


def log_of(work_dir):
    (file,) = work_dir.glob('*/*.log')
    return file.read_text()


@pytest.mark.parametrize('task', TASKS)
def test_skips_names_each_file_once_and_counts(damaged, tmp_path, task):
    Runner.from_cfg(small(task, damaged, tmp_path / 'none')).train()
    Runner.from_cfg(small(task, damaged, tmp_path / 'two', workers=2)).train()
    images = sorted(damaged.glob('images/train/*.jpg'))
    for place in ('none', 'two'):
        lines = [
            line
            for line in log_of(tmp_path / place).splitlines()
            if 'another image stands in' in line
        ]
        assert len(lines) == 3
        for path, why in (
            (images[2], 'is cut off'),
            (images[3], 'is cut off'),
            (images[7], 'is empty'),
        ):
            assert sum(f'{path} {why}' in line for line in lines) == 1
        for epoch in (1, 2):
            assert f'Epoch {epoch}: ' in log_of(tmp_path / place)
    one = log_of(tmp_path / 'none')
    assert '(3 files)' in one.split('Epoch 1: ')[1].splitlines()[0]
    # Which images stand in does not depend on the workers (whose augmentations draw from streams of
    # their own).
    totals = [
        [
            line.split('Epoch ')[1]
            for line in log_of(tmp_path / place).splitlines()
            if 'stood in' in line
        ]
        for place in ('none', 'two')
    ]
    assert totals[0] == totals[1] and len(totals[0]) == 2


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('workers', [0, 1])
def test_stops_at_the_first_without_the_wrapper(damaged, tmp_path, task, workers):
    cfg = small(task, damaged, tmp_path, skip=False, workers=workers)
    with pytest.raises(UnreadableImage, match=r'images/train/\S+\.jpg is (cut off|empty)'):
        Runner.from_cfg(cfg).train()
    assert not list(tmp_path.glob('*.pth'))


def test_validation_always_stops(damaged, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(damaged, root)
    first = sorted(root.glob('images/val/*.jpg'))[0]
    first.write_bytes(first.read_bytes()[:200])
    cfg = small('det', root, tmp_path / 'work')
    cfg.train_cfg.val_interval = 1
    with pytest.raises(UnreadableImage, match=f'{first} is cut off'):
        Runner.from_cfg(cfg).train()
    cfg = small('det', root, tmp_path / 'wrapped')
    cfg.val_dataloader.dataset = dict(
        type='mmkd.SkipUnreadable', dataset=cfg.val_dataloader.dataset
    )
    with pytest.raises(ValueError, match='an evaluation must not leave out images'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_resumed_run_sees_the_same_images(damaged, tmp_path, workers):
    Runner.from_cfg(small('det', damaged, tmp_path / 'whole', workers=workers)).train()
    cfg = small('det', damaged, tmp_path / 'broken', workers=workers)
    cfg.load_from, cfg.resume = str(tmp_path / 'whole/epoch_1.pth'), True
    Runner.from_cfg(cfg).train()
    one, other = weights(tmp_path / 'whole/epoch_2.pth'), weights(tmp_path / 'broken/epoch_2.pth')
    assert one.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in one.items()
    )


def plain_set(root, **changes):
    """A data set of mmdet's own, which checks nothing itself."""
    init_default_scope('mmdet')
    cfg = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/train/'),
        metainfo=dict(classes=('polyp',)),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='PackDetInputs', meta_keys=('img_path',)),
        ],
    )
    return dict(cfg, **changes)


def test_wraps_any_data_set_and_takes_whole_images_alone(damaged):
    plain = DATASETS.build(plain_set(damaged))
    wrapped = dict(type='mmkd.SkipUnreadable', dataset=plain_set(damaged))
    skipping = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=wrapped))
    assert len(skipping) == 24 and skipping.metainfo == plain.metainfo
    for index in range(12):
        item = skipping[index]
        path = item['data_samples'].img_path
        assert image_problem(Path(path).read_bytes(), decode=True) is None
        faults = item['data_samples'].metainfo.get('unreadable', [])
        assert bool(faults) == (index in (2, 3, 7)) and all(
            'images/train' in fault for fault in faults
        )
        assert torch.equal(item['inputs'], skipping[index]['inputs'])
        if not faults:
            assert path == plain[index]['data_samples'].img_path


def test_other_faults_of_an_item_stop_as_ever(damaged):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale='wide', keep_ratio=True)]
    skipping = DATASETS.build(
        dict(type='mmkd.SkipUnreadable', dataset=plain_set(damaged, pipeline=pipeline))
    )
    with pytest.raises(Exception) as error:
        skipping[0]
    assert not isinstance(error.value, UnreadableImage)


def test_a_set_without_any_usable_image_ends(damaged, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(damaged, root)
    for path in root.glob('images/train/*.jpg'):
        path.write_bytes(b'no image')
    skipping = DATASETS.build(dict(type='mmkd.SkipUnreadable', dataset=plain_set(root)))
    with pytest.raises(
        UnreadableImage, match='is no image that OpenCV can read, nor can 50 others'
    ):
        skipping[0]


def test_exported_configs_have_the_plain_set(damaged, tmp_path):
    cfg = small('det', damaged, tmp_path)
    cfg.train_dataloader.dataset.dataset.cache_prefix = 1
    plain = plain_config(cfg, 'student1')
    assert plain.train_dataloader.dataset.type == 'CocoDataset' and 'mmkd' not in plain.pretty_text
    assert 'cache_prefix' not in plain.pretty_text
    assert (
        plain.train_dataloader.dataset.data_root == cfg.train_dataloader.dataset.dataset.data_root
    )
    assert not any('Unreadable' in str(hook.get('type')) for hook in plain.custom_hooks)


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_whole_and_cut_files(tmp_path, suffix):
    import cv2
    import numpy as np

    path = tmp_path / f'Größe 1{suffix}'
    data = cv2.imencode(suffix, np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))[
        1
    ].tobytes()
    whole = data + b'\n\0\0'  # some cameras append to a file
    path.write_bytes(whole)
    backend = WholeImageBackend()
    assert backend.get(str(path)) == whole and image_problem(whole, decode=True) is None
    for length in (0, 1, 10, len(data) // 4, len(data) // 2, len(data) - 9):
        assert image_problem(data[:length], decode=True)
        path.write_bytes(data[:length])
        if length not in (1, 10):  # too short to be known as an image by its first bytes
            with pytest.raises(UnreadableImage, match='Größe 1'):
                backend.get(str(path))
    path.unlink()
    with pytest.raises(UnreadableImage, match='cannot be read: No such file'):
        backend.get(str(path))
