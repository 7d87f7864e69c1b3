"""What mmkd's data sets share: one read per file, checks while loading, the cache."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmkd.datasets.step_cache import StepCache
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import read_image, write_image

LOAD = dict(type='LoadImageFromFile')
SETS = dict(
    det=dict(
        scope='mmdet',
        type='mmkd.PolypDetection',
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/train/'),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=[
            LOAD,
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(48, 48), keep_ratio=True),
            dict(type='PhotoMetricDistortion'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
    ),
    seg=dict(
        scope='mmseg',
        type='mmkd.PolypSegmentation',
        data_prefix=dict(img_path='images/train', seg_map_path='masks/train'),
        img_suffix='.png',
        pipeline=[
            LOAD,
            dict(type='LoadAnnotations'),
            dict(type='Resize', scale=(48, 48)),
            dict(type='RandomCrop', crop_size=(40, 40)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
    cls=dict(
        scope='mmpretrain',
        type='mmkd.FolderClassification',
        data_prefix='images/train',
        ann_file='labels/train.txt',
        metainfo=dict(classes=('none', 'polyp')),
        pipeline=[
            LOAD,
            dict(type='Resize', scale=48),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
    ),
)
READ: list[str] = []
WATCHING = [False]


def watch(event, arguments):
    if WATCHING[0] and event == 'open' and str(arguments[0]).endswith(('.png', '.jpg')):
        READ.append(str(arguments[0]))


sys.addaudithook(watch)  # it cannot be removed again: a switch turns it off


@pytest.fixture
def files_read():
    """The image files that Python opens during the test."""
    READ.clear()
    WATCHING[0] = True
    yield READ
    WATCHING[0] = False


def build(task, root, **changes):
    cfg = dict(SETS[task], data_root=str(root), **changes)
    init_default_scope(cfg.pop('scope'))
    return DATASETS.build(cfg)


@pytest.fixture
def copied(data, tmp_path):
    shutil.copytree(data, tmp_path / 'data')
    return tmp_path / 'data'


def items(dataset, epochs=2):
    np.random.seed(3)
    torch.manual_seed(3)
    random.seed(3)
    return [dataset[i] for _ in range(epochs) for i in range(len(dataset))]


def contents(task, item):
    sample = item['data_samples']
    if task == 'det':
        truth = sample.gt_instances.bboxes.tensor
    else:
        truth = sample.gt_sem_seg.data if task == 'seg' else sample.gt_label
    return item['inputs'], truth, str(sorted(sample.metainfo.items()))


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('task, files', [('det', 1), ('seg', 2), ('cls', 1)])
def test_each_file_of_an_item_is_read_once(data, files_read, task, files, wrapped):
    dataset = build(task, data)
    if wrapped:
        dataset = DATASETS.build(dict(type='mmkd.SkipUnreadable', dataset=dataset))
    files_read.clear()
    for index in range(4):
        dataset[index]
    assert len(files_read) == len(set(files_read)) == 4 * files


@pytest.mark.parametrize('task, prefix', [('det', 3), ('seg', 3), ('cls', 2), ('cls', 1)])
def test_cached_items_equal_the_others(data, files_read, task, prefix):
    plain = items(build(task, data))
    dataset = build(task, data, cache_prefix=prefix)
    dataset.full_init()
    files_read.clear()
    cached = items(dataset)
    assert len(files_read) == len(set(files_read))  # nothing is read again in the second epoch
    assert len(plain) == len(cached) == 2 * len(dataset)
    for one, other in zip(plain, cached):
        one, other = contents(task, one), contents(task, other)
        assert (
            torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]
        )
    different = {contents(task, item)[0].numpy().tobytes() for item in cached}
    assert len(different) > len(dataset)  # the random steps still draw in each epoch


def test_items_from_files_equal_the_others_in_a_later_run_too(data, files_read, tmp_path):
    """And a file that was replaced, another annotation or pipeline are other items."""
    for task, prefix in (('det', 3), ('seg', 3), ('cls', 2)):
        plain = items(build(task, data))
        for run in range(2):
            dataset = build(task, data, cache_folder=str(tmp_path / 'cache'))
            dataset.full_init()
            assert dataset.cache_prefix == prefix
            files_read.clear()
            cached = items(dataset)
            assert len(files_read) == len(set(files_read))
            assert bool(files_read) == (run == 0)
            for one, other in zip(plain, cached, strict=True):
                one, other = contents(task, one), contents(task, other)
                assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
                assert one[2] == other[2]


def kept_files(folder):
    return sorted(path for path in folder.rglob('*') if path.is_file())


def test_what_a_kept_item_depends_on(copied, tmp_path):
    def first(scale=48):
        steps = [LOAD, dict(type='Resize', scale=scale), dict(type='PackInputs')]
        dataset = build('cls', copied, pipeline=steps, cache_folder=str(tmp_path / 'cache'))
        return dataset[0]['inputs']

    before = first()
    (kept,) = kept_files(tmp_path / 'cache')
    assert torch.equal(first(), before) and kept_files(tmp_path / 'cache') == [kept]
    path = Path(build('cls', copied).get_data_info(0)['img_path'])
    stat = path.stat()
    content = bytearray(path.read_bytes())
    write_image(path, 255 - read_image(path))
    after = first()
    assert not torch.equal(after, before) and len(kept_files(tmp_path / 'cache')) == 2
    path.write_bytes(content)  # of the same size and time as at first, but written later
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert torch.equal(first(), before) and len(kept_files(tmp_path / 'cache')) == 3
    assert first(scale=24).shape[-1] == 24
    for each in kept_files(tmp_path / 'cache'):
        each.write_bytes(each.read_bytes()[:-1])  # cut off: made anew
    assert torch.equal(first(), before)


def test_steps_are_told_apart_by_what_their_text_leaves_out(tmp_path):
    class Scaled:
        def __init__(self, factor):
            self.factor = factor

        def __repr__(self):
            return 'Scaled()'

    paths = {StepCache(str(tmp_path), [Scaled(f)]).path({}) for f in (1, 2, (1, {'a': None}), 2)}
    assert len(paths) == 3

    class Plain:
        pass

    assert len({StepCache(str(tmp_path), [Plain()]).path({}) for _ in range(3)}) == 1


def test_a_full_disk_ends_the_keeping_not_the_training(data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    dataset = build('cls', data, cache_folder=str(tmp_path / 'cache'))
    assert dataset[0]['inputs'].any() and not dataset._files.writes
    assert not kept_files(tmp_path / 'cache')


def test_masks_are_kept_in_files_and_unknown_things_are_refused(data, tmp_path):
    pipeline = [LOAD, dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    for poly2mask in (True, False):
        pipeline[1]['poly2mask'] = poly2mask
        plain = build('det', data, pipeline=pipeline)[0]
        found = [
            build('det', data, pipeline=pipeline, cache_folder=str(tmp_path / 'cache'))[0]
            for _ in range(2)
        ][1]
        assert plain.keys() == found.keys()
        assert type(plain['gt_masks']) is type(found['gt_masks'])
        assert np.array_equal(plain['gt_masks'].to_ndarray(), found['gt_masks'].to_ndarray())
        found['img'] += 1  # not a view of bytes that cannot be written to
    from mmkd.datasets.step_cache import StepCache

    cache = StepCache(str(tmp_path / 'other'), [])
    with pytest.raises(ConfigError, match='first steps give a set, which no file keeps'):
        cache.save(tmp_path / 'other/x', dict(names={'a'}))
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match=r'dataset.cache_folder: expected a folder to write to'):
        StepCache(str(tmp_path / 'file'), [])


def test_what_changes_an_item_leaves_the_cache_alone(data):
    def scribble(results):
        results['img'][:] = 0
        results['gt_bboxes'].tensor[:] = 0
        return results

    dataset = build('det', data, pipeline=[*SETS['det']['pipeline'][:3], scribble], cache_prefix=3)
    index = next(i for i in range(len(dataset)) if dataset.get_data_info(i)['instances'])
    assert not dataset[index]['img'].any() and not dataset[index]['img'].any()
    (kept,) = dataset._cache.values()
    assert kept['img'].any() and kept['gt_bboxes'].tensor.any()


def test_a_subset_does_not_get_the_items_of_the_whole_set(data):
    dataset = build('cls', data, cache_prefix=2)
    paths = [dataset[i]['data_samples'].img_path for i in range(4)]
    dataset.get_subset_([3, 2])
    assert [dataset[i]['data_samples'].img_path for i in range(2)] == [paths[3], paths[2]]


@pytest.mark.parametrize(
    'task, prefix, message',
    [
        ('det', 4, r"pipeline\[3\] is 'PhotoMetricDistortion'"),
        ('seg', 4, r"pipeline\[3\] is 'RandomCrop'; expected Load"),
        ('cls', 5, r'expected an integer in \[0, 4\], got 5'),
        ('cls', -1, 'got -1'),
        ('cls', True, 'got True'),
    ],
)
def test_steps_that_cannot_be_cached(data, task, prefix, message):
    with pytest.raises(ConfigError, match=f'dataset.cache_prefix.*: .*{message}'):
        build(task, data, cache_prefix=prefix)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_training_without_annotations_is_refused(data, task):
    pipeline = [step for step in SETS[task]['pipeline'] if step['type'] != 'LoadAnnotations']
    pipeline = [step for step in pipeline if step['type'] != 'RandomCrop']
    with pytest.raises(ConfigError, match='without LoadAnnotations has no ground truth'):
        build(task, data, pipeline=pipeline)
    assert len(build(task, data, pipeline=pipeline, test_mode=True))


def test_sizes_of_the_json_are_compared_with_the_files(copied):
    path = copied / 'annotations/train.json'
    content = json.loads(path.read_text())
    content['images'][1].update(height=60, width=64)
    path.write_text(json.dumps(content))
    dataset = build('det', copied)
    dataset[0]
    with pytest.raises(
        ConfigError, match='00001.png: the image has 64 x 64 pixels, .* says 64 x 60'
    ):
        dataset[1]


def test_an_image_turned_by_exif_is_named(copied):
    path = copied / 'annotations/train.json'
    content = json.loads(path.read_text())
    content['images'][0].update(file_name='turned.jpg', width=64, height=40)
    path.write_text(json.dumps(content))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.zeros((40, 64, 3), np.uint8))
    image.save(copied / 'images/train/turned.jpg', exif=exif)
    with pytest.raises(
        ConfigError, match='has 40 x 64 pixels, .* says 64 x 40; is it turned by its EXIF'
    ):
        build('det', copied)[0]


def test_label_maps_with_channels_are_named(copied):
    path = copied / 'masks/train/00000.png'
    write_image(path, np.dstack([read_image(path, cv2.IMREAD_UNCHANGED)] * 3))
    with pytest.raises(
        ConfigError, match='00000.png: expected one label per pixel, got 3 channels'
    ):
        build('seg', copied)[0]


def test_masks_of_0_and_255_are_no_label_maps(copied):
    for path in (copied / 'masks/train').iterdir():
        write_image(path, read_image(path, cv2.IMREAD_UNCHANGED) * 255)
    dataset = build('seg', copied)
    with pytest.raises(ConfigError, match='masks of 0 and 255 are no label maps'):
        for i in range(len(dataset)):
            dataset[i]


def test_ignored_borders_are_no_fault(copied):
    for path in (copied / 'masks/train').iterdir():
        labels = read_image(path, cv2.IMREAD_UNCHANGED)
        labels[:4] = 255
        write_image(path, labels)
    assert len(items(build('seg', copied))) == 24


def test_an_image_of_too_many_pixels_is_named(copied, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    with pytest.raises(ConfigError, match='00000.png has more than 0 million pixels'):
        build('seg', copied)[0]


def test_links_in_a_circle_are_named(copied):
    for kind in ('images', 'masks'):
        (copied / kind / 'train' / 'loop').symlink_to(copied / kind / 'train')
    with pytest.raises(ConfigError, match='images/train: cannot list it'):
        build('seg', copied)
    (copied / 'images/train/00000.png').unlink()
    (copied / 'images/train/00000.png').symlink_to('00000.png')
    with pytest.raises(ConfigError, match='00000.png cannot be read: Too many levels'):
        build('cls', copied)[0]


@pytest.mark.skipif(sys.platform != 'linux', reason='other file systems refuse such names')
def test_names_that_are_not_utf8_are_told_printably(copied):
    folder = os.fsencode(copied / 'images/train')
    os.rename(folder + b'/00000.png', folder + b'/\xff.png')
    with pytest.raises(FileNotFoundError, match=r"no label map in .*: '\\udcff.png'") as error:
        build('seg', copied)
    str(error.value).encode()
    Path(os.fsdecode(folder + b'/\xff.png')).write_bytes(b'')
    os.rename(
        os.fsencode(copied / 'masks/train/00000.png'),
        os.fsencode(copied / 'masks/train') + b'/\xff.png',
    )
    with pytest.raises(ConfigError, match='is empty') as error:
        items(build('seg', copied), 1)
    str(error.value).encode()
