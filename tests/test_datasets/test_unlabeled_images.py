"""Images without labels from a folder, for all three tasks."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmkd.utils.errors import ConfigError

PACK = dict(mmdet='PackDetInputs', mmseg='PackSegInputs', mmpretrain='PackInputs')
PREPROCESSOR = dict(
    mmdet='DetDataPreprocessor', mmseg='SegDataPreProcessor', mmpretrain='ClsDataPreprocessor'
)


@pytest.fixture
def folder(tmp_path):
    def folder(*names, size=(24, 16)):
        for name in names:
            path = tmp_path / 'frames' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))
        (tmp_path / 'frames').mkdir(exist_ok=True)
        return tmp_path / 'frames'

    return folder


def build(root, scope='mmdet', *more):
    pipeline = [dict(type='LoadImageFromFile')]
    pipeline += [dict(type='Resize', scale=(20, 20), keep_ratio=False)]
    pipeline += [dict(type='RandomFlip', prob=1.0), *more, dict(type=PACK[scope])]
    return DATASETS.build(dict(type='mmkd.UnlabeledImages', data_root=str(root), pipeline=pipeline))


@pytest.mark.parametrize('scope', list(PACK))
def test_images_of_a_folder_for_every_task(folder, scope):
    pytest.importorskip(scope)
    DefaultScope.get_instance(f'unlabeled-{scope}', scope_name=scope)
    root = folder('b.PNG', 'a/1.jpg', 'c/1.jpg')
    (root / 'notes.txt').write_text('left alone')
    dataset = build(root, scope)
    assert [item['img_path'][len(str(root)) + 1 :] for item in map(dataset.get_data_info, range(3))]
    preprocessor = MODELS.build(dict(type=PREPROCESSOR[scope]))
    batch = preprocessor(pseudo_collate([dataset[i] for i in range(3)]), False)
    assert batch['inputs'].shape == (3, 3, 20, 20) and len(batch['data_samples']) == 3


@pytest.mark.parametrize(
    'names, message',
    [
        ((), 'no image in .*frames'),
        (('a.jpg', 'a.png'), r'1 of 2 images look like label maps \(a.png\)'),
        (('a.jpg', 'a_mask.jpg', 'b.jpg'), r'1 of 3 .*\(a_mask.jpg\)'),
        (('images/a.jpg', 'masks/a.jpg'), r'1 of 2 .*\(masks/a.jpg\); name the folder'),
        (('images/a.jpg', 'Ground_Truth/a.jpg'), r'1 of 2 .*\(Ground_Truth/a.jpg\)'),
        (('img_dir/a.jpg', 'ann_dir/a.png'), r'1 of 2 .*\(ann_dir/a.png\)'),
        (('leftImg8bit/a.png', 'gtFine/a_x.png'), r'1 of 2 .*\(gtFine/a_x.png\)'),
        (('JPEGImages/a.jpg', 'SegmentationClass/a.png'), r'1 of 2 .*SegmentationClass'),
    ],
)
def test_a_folder_without_images_or_with_label_maps_is_refused(folder, names, message):
    with pytest.raises(ConfigError, match=message):
        build(folder(*names))


def test_a_folder_of_label_maps_alone_is_refused(folder):
    root = folder('images/a.jpg', 'Masks/a.png', 'Masks/b.png')
    with pytest.raises(ConfigError, match=r'Masks .*2 of 2 images look like label maps'):
        build(root / 'Masks')


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match='no folder of unlabeled images .*none'):
        build(tmp_path / 'none')


def test_images_of_several_sizes_are_one_message(toolkit):
    import distributed_worker

    DefaultScope.get_instance('unlabeled-sizes', scope_name='mmseg')
    model = toolkit.make_distiller(**distributed_worker.segmentation('individual'))
    batch = distributed_worker.segmentation_batch(2, 0)
    sides = (torch.zeros(3, side, 32, dtype=torch.uint8) for side in (32, 40))
    batch['unlabeled'] = dict(inputs=list(sides), data_samples=batch['data_samples'])
    with pytest.raises(ConfigError, match='several sizes .*: 32 x 32, 32 x 40; .* Resize'):
        model.data_preprocessor(batch, True)


def test_a_pipeline_that_looks_for_labels_is_told(folder):
    pytest.importorskip('mmseg')
    DefaultScope.get_instance('unlabeled-labels', scope_name='mmseg')
    dataset = build(folder('a.jpg'), 'mmseg', dict(type='LoadAnnotations'))
    with pytest.raises(ConfigError, match='drop LoadAnnotations: these images have no labels'):
        dataset[0]
    other = build(folder('a.jpg'), 'mmseg', dict(type='RandomCrop', crop_size=(8, 8)))
    assert other[0]['inputs'].shape == (3, 8, 8)
