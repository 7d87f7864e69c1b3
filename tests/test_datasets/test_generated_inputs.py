"""Generated inputs: each ends with a right result or with one ConfigError."""

import json
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from mmengine.registry import DATASETS, init_default_scope

from mmkd.datasets.converters.polyp_options import PolypOptions
from mmkd.datasets.converters.polyps import convert_polyps
from mmkd.datasets.converters.tiles import convert_tiles
from mmkd.utils.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='file systems differ in names')
LOAD = dict(type='LoadImageFromFile')


def examples(count):
    """The same examples in each run, without a limit of time."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope='module')
def folder():
    memory = Path('/dev/shm')  # thousands of tiny files: slow on a disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def build(cfg):
    # Serializing collects the garbage of the whole process: a second for each example.
    return DATASETS.build(dict(cfg, serialize_data=False))


def fresh(folder):
    return Path(tempfile.mkdtemp(dir=folder))


# ---------------------------------------------------------------- COCO files
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**400, -1, 0.5, float('nan'), float('inf'), '', '1', [], {}, [1], 'polyp']),
)
ids = st.integers(0, 5)
number = st.one_of(st.integers(-5, 70), st.floats(-5, 70, allow_nan=False))


@st.composite
def coco_files(draw):
    """A COCO file that is mostly right, and up to three values in it that are not."""
    images = [
        dict(id=i, file_name=f'{draw(st.integers(0, 5))}.png', width=64, height=48)
        for i in draw(st.lists(ids, min_size=1, max_size=4, unique=draw(st.integers(0, 9)) > 0))
    ]
    annotations = [
        dict(
            id=i,
            image_id=draw(st.sampled_from(images))['id'],
            category_id=draw(st.sampled_from([1, 1, 1, 2])),
            bbox=[draw(number) for _ in range(4)],
            area=draw(st.sampled_from([9, 9, 9, 9, 9, 9, 9, 0, -1])),
            iscrowd=draw(st.sampled_from([0, 0, 0, 1])),
            ignore=draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1])),
        )
        for i in range(draw(st.integers(0, 6)))
    ]
    categories = [dict(id=1, name='polyp'), dict(id=2, name='tool')]
    content = dict(images=images, annotations=annotations, categories=categories)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        kind = draw(st.sampled_from(sorted(content)))
        entries = content[kind]
        if not isinstance(entries, list) or not entries or draw(st.integers(0, 9)) == 0:
            content[kind] = draw(junk)
            continue
        entry = draw(st.sampled_from(entries))
        if isinstance(entry, dict) and entry:
            key = draw(st.sampled_from(sorted(entry)))
            if draw(st.booleans()):
                entry[key] = draw(junk)
            else:
                del entry[key]
    return content


def usable(content, image):
    """The boxes of an image that are to be trained on, by the rules of mmdet, written anew."""
    names = {category['id']: category['name'] for category in content['categories']}
    found = []
    for entry in content['annotations']:
        x, y, w, h = entry['bbox']
        covered = min(x + w, image['width']) > max(x, 0) and min(y + h, image['height']) > max(y, 0)
        if (
            entry['image_id'] == image['id']
            and names[entry['category_id']] == 'polyp'
            and not entry.get('ignore')
            and entry['area'] > 0
            and min(w, h) >= 1
            and covered
        ):
            found.append([x, y, x + w, y + h])
    return found


@examples(250)
@given(content=coco_files())
def test_coco_files(folder, content):
    root = fresh(folder)
    (root / 'images').mkdir()
    (root / 'train.json').write_text(json.dumps(content))
    init_default_scope('mmdet')
    try:
        dataset = build(
            dict(
                type='mmkd.PolypDetection',
                data_root=str(root),
                ann_file='train.json',
                data_prefix=dict(img='images/'),
                filter_cfg=dict(filter_empty_gt=False),
                pipeline=[],
            )
        )
    except ConfigError as error:
        assert 'train.json' in str(error)
        event('refused')
        return
    event('loaded')
    assert len(dataset) == len(content['images'])
    by_id = {image['id']: image for image in content['images']}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        boxes = [instance['bbox'] for instance in info['instances']]
        assert boxes == usable(content, by_id[info['img_id']])


# ---------------------------------------------------------------- label maps
def png(array):
    return cv2.imencode('.png', array)[1].tobytes()


label = st.sampled_from([0, 0, 0, 0, 1, 1, 1, 1, 255, 255, 2, 128, 256])


@st.composite
def label_maps(draw):
    """An image file and a label map's file, whole or not, and the label map's pixels."""
    height, width = draw(st.sampled_from([(8, 8)] * 8 + [(8, 9), (1, 8)]))
    kind = draw(st.sampled_from([np.uint8] * 7 + [np.uint16]))
    values = draw(st.lists(label, min_size=1, max_size=4))
    labels = np.resize(np.array(values).astype(kind), (height, width))
    if draw(st.integers(0, 8)) == 0:
        labels = np.dstack([labels] * draw(st.sampled_from([3, 4])))
    content = png(labels)
    cut = draw(st.one_of(*[st.none()] * 6, st.integers(0, len(content) - 1)))
    shape = draw(st.sampled_from([(8, 8), (8, 8, 3), (8, 8, 4)]))
    return png(np.zeros(shape, np.uint8)), content[:cut], labels


@examples(150)
@given(files=label_maps())
def test_label_maps(folder, files):
    root = fresh(folder)
    image, content, labels = files
    for kind, data in (('images', image), ('masks', content)):
        (root / kind).mkdir()
        (root / kind / 'a.png').write_bytes(data)
    init_default_scope('mmseg')
    dataset = build(
        dict(
            type='mmkd.PolypSegmentation',
            data_root=str(root),
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            img_suffix='.png',
            pipeline=[LOAD, dict(type='LoadAnnotations')],
        )
    )
    try:
        item = dataset[0]
    except ConfigError as error:
        assert 'a.png' in str(error)
        event('refused')
        return
    event('loaded')
    assert np.array_equal(item['gt_seg_map'], labels) and item['img'].shape == (8, 8, 3)
    assert np.isin(labels, [0, 1, 255]).all()


# ---------------------------------------------------------------- folders of images
name = st.one_of(
    st.sampled_from([b'a', b'b', b'c1', b'c2', b'A', b'\xff', 'é'.encode(), b' ', b'x y', b'n\nl']),
    st.binary(min_size=1, max_size=4).filter(lambda text: not set(text) & set(b'/\0.')),
)
suffix = st.sampled_from([b'.png', b'.png', b'.png', b'.jpg', b'.TIF', b'.txt'])


@st.composite
def contents(draw):
    """A file's bytes: a mask, an image, one of another size, a cut one, or no image."""
    shape = draw(st.sampled_from([(8, 8)] * 6 + [(8, 8, 3), (9, 8)]))
    values = draw(st.lists(st.sampled_from([0, 255, 255, 1, 90]), min_size=1, max_size=3))
    data = png(np.resize(np.array(values, np.uint8), shape))
    kind = draw(st.integers(0, 19))
    return {0: b'', 1: data[:-20], 2: b'no image'}.get(kind, data)


def write_folder(folder, files):
    folder.mkdir(parents=True)
    for (stem, ending), data in files.items():
        with open(os.fsencode(folder) + b'/' + stem + ending, 'wb') as file:
            file.write(data)


folders = st.dictionaries(st.tuples(name, suffix), contents(), max_size=6)


@examples(150)
@given(images=folders, masks=folders, same=st.booleans(), ratio=st.sampled_from([None, 0.5]))
def test_folders_of_images_and_masks(folder, images, masks, same, ratio):
    root = fresh(folder)
    if same:
        masks |= dict.fromkeys(images, png(np.eye(8, dtype=np.uint8) * 255))
    write_folder(root / 'images', images)
    write_folder(root / 'masks', masks)
    options = PolypOptions(one_split=None if ratio else 'train', train_ratio=ratio, min_area=1)
    try:
        report = convert_polyps(root / 'images', root / 'masks', root / 'out', options)
    except ConfigError as error:
        str(error).encode()
        assert not (root / 'out').exists()
        event('refused')
        return
    event('converted')
    report.table().encode()
    pictures = [key for key in images if key[1] != b'.txt' and key[0][:1] != b'.']
    assert sum(report.images.values()) + len(report.left_out + report.copies) == len(pictures)
    for split, count in report.images.items():
        content = json.loads((root / f'out/annotations/{split}.json').read_text())
        assert (
            len(content['images']) == count == len(list((root / f'out/images/{split}').iterdir()))
        )
        assert len(content['annotations']) == report.boxes[split]
        check_that_it_loads(root / 'out', split, content)


def check_that_it_loads(root, split, content):
    init_default_scope('mmdet')
    if not content['annotations']:
        return
    dataset = build(
        dict(
            type='mmkd.PolypDetection',
            data_root=str(root),
            ann_file=f'annotations/{split}.json',
            data_prefix=dict(img=f'images/{split}/'),
            pipeline=[LOAD, dict(type='LoadAnnotations', with_bbox=True)],
        )
    )
    assert sum(len(item['gt_bboxes']) for item in dataset) == len(content['annotations'])


tiles = st.dictionaries(st.tuples(name, suffix), contents(), min_size=2, max_size=6)


@examples(80)
@given(
    mss=tiles,
    msi=tiles,
    patient=st.sampled_from(
        ['file', 'file', 'file', '(.)', '(.)', 'tcga', 'folder', '(', 'no.csv:x']
    ),
    copy=st.booleans(),
)
def test_folders_of_tiles(folder, mss, msi, patient, copy):
    root = fresh(folder)
    write_folder(root / 'in/MSS', mss)
    write_folder(root / 'in/MSIMUT', msi)
    try:
        report = convert_tiles(root / 'in', root / 'out', copy=copy, patient=patient)
    except ConfigError as error:
        str(error).encode()
        assert not (root / 'out').exists()
        event('refused')
        return
    event('converted')
    report.table().encode()
    pictures = sum(
        key[1] != b'.txt' and not key[0].startswith(b'.') for files in (mss, msi) for key in files
    )
    counted = sum(sum(counts) for counts in report.tiles.values())
    assert counted + len(report.left_out) == pictures and not report.leaks
    init_default_scope('mmpretrain')
    for split, counts in report.tiles.items():
        dataset = build(
            dict(
                type='mmkd.FolderClassification',
                data_root=str(root / 'out'),
                data_prefix='images',
                ann_file=f'meta/{split}.txt',
                metainfo=dict(classes=('MSS', 'MSIMUT')),
                pipeline=[LOAD],
            )
        )
        labels = [item['gt_label'] for item in dataset]
        assert [labels.count(0), labels.count(1)] == counts


# ---------------------------------------------------------------- lists of images
line = st.one_of(
    *[st.sampled_from(['a.png 0', 'a.png 1', 'b c.png 1', 'é.png 0', 'a\u2028b.png 1'])] * 8,
    st.sampled_from(['', ' ', 'a.png', 'a.png 7', 'a.png -1', 'a.png ²', '0']),
    st.text(max_size=6),
)


@examples(100)
@given(lines=st.lists(line, max_size=4), data=st.one_of(*[st.none()] * 5, st.binary(max_size=5)))
def test_lists_of_images(folder, lines, data):
    root = fresh(folder)
    (root / 'images').mkdir()
    text = '\n'.join(lines).encode('utf-8', 'surrogatepass') if data is None else data
    (root / 'list.txt').write_bytes(text)
    init_default_scope('mmpretrain')
    try:
        dataset = build(
            dict(
                type='mmkd.FolderClassification',
                data_root=str(root),
                data_prefix='images',
                ann_file='list.txt',
                metainfo=dict(classes=('a', 'b')),
                pipeline=[],
            )
        )
    except ConfigError as error:
        assert 'list.txt' in str(error)
        str(error).encode()
        event('refused')
        return
    event('loaded')
    lines = (root / 'list.txt').read_text(encoding='utf-8').removesuffix('\n').split('\n')
    expected = [line.strip().rpartition(' ') for line in lines]
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [(Path(info['img_path']).name, info['gt_label']) for info in infos] == [
        (Path(path).name, int(label)) for path, _, label in expected
    ]
