import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmkd.datasets.converters.masks import binary_mask, components, outline
from mmkd.datasets.converters.output import MARKER
from mmkd.datasets.converters.polyp_options import PolypOptions
from mmkd.datasets.converters.polyps import convert_polyps
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import read_image, write_image

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get('MMKD_SHARED_DATA', ROOT.parent / 'shared' / 'data')) / 'polyp'


def blob(*boxes, size=(60, 80)):
    """A mask (H, W) of 0 and 255 with filled rectangles x, y, w, h."""
    mask = np.zeros(size, np.uint8)
    for x, y, w, h in boxes:
        mask[y : y + h, x : x + w] = 255
    return mask


@pytest.fixture
def source(tmp_path):
    """Folders images/ and masks/ with four good pairs: jpg, accents, a negative, upper case."""
    folder = tmp_path / 'source'
    for kind in ('images', 'masks'):
        (folder / kind).mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    for name, mask in (
        ('a.jpg', blob((10, 20, 15, 12))),
        ('none.bmp', blob()),
        ('d.TIF', blob((0, 0, 80, 60))),
        ('pólipo 2.png', blob((5, 5, 20, 10), (50, 30, 8, 9), (70, 50, 2, 2))),
    ):
        write_image(folder / 'images' / name, image)
        write_image(folder / 'masks' / f'{Path(name).stem}.png', mask)
    return folder


def run_tool(source, out, *arguments):
    command = [
        sys.executable,
        'tools/convert_polyp.py',
        source / 'images',
        source / 'masks',
        out,
        *arguments,
    ]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)


def convert(source, out, **kwargs):
    return convert_polyps(source / 'images', source / 'masks', out, PolypOptions(**kwargs))


def read_mask(path):
    return binary_mask(read_image(path, cv2.IMREAD_UNCHANGED), path.name).labels


def lists(tmp_path, **names):
    paths = {}
    for split, lines in names.items():
        paths[split] = tmp_path / f'{split}.txt'
        paths[split].write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return paths


def test_tool_writes_the_layout_and_reports(tmp_path, source):
    write_image(source / 'images' / 'alone.png', np.zeros((9, 9, 3), np.uint8))
    write_image(source / 'masks' / 'lost.png', blob())
    write_image(source / 'images' / 'small.png', np.zeros((9, 7, 3), np.uint8))
    write_image(source / 'masks' / 'small.png', blob())
    whole = (source / 'images' / 'a.jpg').read_bytes()
    (source / 'images' / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    write_image(source / 'masks' / 'cut.png', blob())
    write_image(source / 'images' / 'text.png', np.zeros((60, 80, 3), np.uint8))
    (source / 'masks' / 'text.png').write_text('no image')
    paths = lists(
        tmp_path, train=['a', 'pólipo 2.png', 'small', 'cut', 'text', '', 'alone'], val=['none']
    )
    out = tmp_path / 'out'
    done = run_tool(
        source, out, '--split', f'train={paths["train"]}', '--split', f'val={paths["val"]}'
    )
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert ['train', '2', '3', '0'] in table and ['val', '1', '0', '1'] in table
    for line in (
        'unreadable, left out: 2: image cut.jpg, mask text.png',
        'mask of another size, left out: 1: small.png (7 x 9, mask 80 x 60)',
        'image without mask, left out: 1: alone.png',
        'mask without image: 1: lost.png',
        'in no split list, left out: 1: d.TIF',
        'empty mask, kept as negative: 1: none.bmp',
    ):
        assert line in done.stdout
    content = json.loads((out / 'annotations' / 'train.json').read_text())
    assert content['categories'] == [dict(id=1, name='polyp')]
    assert [image['file_name'] for image in content['images']] == ['a.jpg', 'pólipo 2.png']
    assert [
        (a['image_id'], a['bbox'], a['area'], a['iscrowd']) for a in content['annotations']
    ] == [(0, [10, 20, 15, 12], 180, 0), (1, [5, 5, 20, 10], 200, 0), (1, [50, 30, 8, 9], 72, 0)]
    assert (out / 'images' / 'train' / 'a.jpg').read_bytes() == whole
    assert (
        read_image(out / 'masks' / 'train' / 'pólipo 2.png', -1).sum() == 272
    )  # without the speck
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'out',
        'source',
        'train.txt',
        'val.txt',
    ]


def test_tool_fails_with_one_message(tmp_path, source):
    write_image(source / 'masks' / 'a.png', blob(size=(30, 40)))
    done = run_tool(source, tmp_path / 'out', '--strict')
    assert (
        done.returncode == 1
        and 'a.jpg (80 x 60, mask 40 x 30)' in done.stderr
        and 'Traceback' not in done.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_a_stopped_tool_leaves_nothing(tmp_path, source):
    large = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8)
    write_image(source / 'images' / 'large.png', large)
    write_image(source / 'masks' / 'large.png', blob(size=(1500, 1500)))
    for i in range(60):
        os.link(source / 'images' / 'large.png', source / 'images' / f'large{i}.png')
        os.link(source / 'masks' / 'large.png', source / 'masks' / f'large{i}.png')
    command = [
        sys.executable,
        'tools/convert_polyp.py',
        source / 'images',
        source / 'masks',
        tmp_path / 'out',
        '--one-split=train',  # equal images: a cut would leave them out
    ]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not any('.out.' in path.name for path in tmp_path.iterdir()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # handled as Ctrl-C is
    _, stderr = process.communicate(timeout=30)
    assert (
        process.returncode == 1
        and 'stopped: nothing was written' in stderr
        and 'Traceback' not in stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ['source']


@pytest.mark.parametrize(
    'names, message',
    [
        (
            dict(train=['a', 'b2', 'c3'], val=['none']),
            '--split train: 2 of 3 names .* have no image: b2, c3',
        ),
        (dict(train=['a', 'd'], val=['d']), "'d' is in 'train' and again in 'val'"),
        (dict(train=['a'], val=[]), '--split val: .* lists no names'),
        (dict(train=['a'], vall=['d']), "unknown name 'vall'.*did you mean 'val'"),
    ],
)
def test_split_lists_that_are_wrong(tmp_path, source, names, message):
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / 'out', splits=lists(tmp_path, **names))
    assert not [path for path in tmp_path.iterdir() if 'out' in path.name]


def test_lists_of_equal_images_leave_the_training_ones_out(tmp_path, source):
    for kind in ('images', 'masks'):
        (file,) = (source / kind).glob('a.*')
        (source / kind / f'b{file.suffix}').write_bytes(file.read_bytes())
    names = lists(tmp_path, train=['a', 'd'], val=['b'])
    report = convert(source, tmp_path / 'out', splits=names)
    assert report.images == dict(train=1, val=1)
    assert report.copies == ['a.jpg (as b.jpg in val)']


def test_inputs_that_are_wrong(tmp_path, source):
    (tmp_path / 'file').write_text('')
    with pytest.raises(FileNotFoundError, match='--split train: no file .*nowhere.txt'):
        convert(source, tmp_path / 'out', splits=dict(train=tmp_path / 'nowhere.txt'))
    with pytest.raises(FileNotFoundError, match='IMAGES: no folder .*nowhere'):
        convert_polyps(tmp_path / 'nowhere', source / 'masks', tmp_path / 'out')
    for key, value in (('train_ratio', 1.5), ('min_area', -1)):
        with pytest.raises(ValueError, match=f'--{key.replace("_", "-")}: .*{value}'):
            convert(source, tmp_path / 'out', **{key: value})
    with pytest.raises(ValueError, match="split 'val': the random cut leaves no image"):
        convert(source, tmp_path / 'out', train_ratio=0.99)
    with pytest.raises(ValueError, match='cannot write there'):
        convert(source, tmp_path / 'file' / 'out')
    (source / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='MASKS: no image'):
        convert_polyps(source / 'images', source / 'empty', tmp_path / 'out')
    write_image(source / 'empty' / 'a_x.png', blob())
    with pytest.raises(ValueError, match='no image has a mask of the same stem.*a.jpg.*a_x.png'):
        convert_polyps(source / 'images', source / 'empty', tmp_path / 'out')
    write_image(source / 'images' / 'a.png', np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(ValueError, match='a.jpg and a.png have the same stem'):
        convert(source, tmp_path / 'out')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'source']


def test_what_is_there_is_kept(tmp_path, source):
    out = tmp_path / 'out'
    convert(source, out, train_ratio=0.5)
    before = (out / 'annotations' / 'train.json').read_bytes()
    with pytest.raises(FileExistsError, match='out is there already'):
        convert(source, out)
    convert(source, out, train_ratio=0.75, overwrite=True)
    assert (out / 'annotations' / 'train.json').read_bytes() != before
    for place in (
        source,
        source / 'images',
        source / 'images' / 'new',
    ):  # would delete or mix with the source
        with pytest.raises(ValueError, match='OUT: .* must lie apart from IMAGES'):
            convert(source, place, overwrite=True)
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'thesis.txt').write_text('text')
    with pytest.raises(FileExistsError, match='leaves it alone'):
        convert(source, mine, overwrite=True)
    assert len(list((source / 'images').iterdir())) == 4 and (mine / 'thesis.txt').exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['mine', 'out', 'source']


def test_the_random_cut_depends_on_the_seed_alone(tmp_path, source):
    for i in range(10):
        write_image(source / 'images' / f'{i}.png', np.full((60, 80, 3), i, np.uint8))
        write_image(source / 'masks' / f'{i}.png', blob((1, 1, 9, 9)))
    cuts = []
    for i, seed in enumerate((0, 0, 1)):
        report = convert(source, tmp_path / f'out{i}', train_ratio=0.7, seed=seed)
        assert report.images == dict(train=10, val=4)
        cuts.append((tmp_path / f'out{i}' / 'annotations' / 'val.json').read_bytes())
    assert cuts[0] == cuts[1] != cuts[2]


def test_an_accent_written_as_two_characters_matches(tmp_path, source):
    path = source / 'masks' / 'pólipo 2.png'
    path.rename(path.with_name(unicodedata.normalize('NFD', path.name)))
    report = convert(
        source,
        tmp_path / 'out',
        splits=lists(tmp_path, train=[unicodedata.normalize('NFD', 'pólipo 2')]),
    )
    assert report.images == dict(train=1) and not report.without_mask


def test_masks_of_every_form(tmp_path):
    truth = blob((10, 20, 15, 12))
    forms = {
        'grey.png': truth,
        'binary.png': truth // 255,
        'rgb.bmp': np.dstack([truth] * 3),
        'deep.tif': truth.astype(np.uint16) * 257,
        'red.png': np.dstack([truth * 0, truth * 0, truth]),
        'alpha.png': np.dstack([truth, truth, truth, truth * 0 + 255]),
    }
    for name, mask in forms.items():
        write_image(tmp_path / name, mask)
    Image.fromarray(truth).convert('1').save(tmp_path / 'bits.png')
    for path in tmp_path.iterdir():
        assert np.array_equal(read_mask(path), truth // 255), path.name
    write_image(tmp_path / 'lossy.jpg', cv2.GaussianBlur(truth, (0, 0), 1))
    assert [box[:4] for box in components(read_mask(tmp_path / 'lossy.jpg'))[0]] == [
        (10, 20, 15, 12)
    ]
    for top in (1, 9):
        noise = np.random.default_rng(0).integers(0, top + 1, (60, 80), np.uint8)
        cv2.imwrite(str(tmp_path / 'noise.jpg'), noise, [cv2.IMWRITE_JPEG_QUALITY, 100])
        assert not read_mask(tmp_path / 'noise.jpg').any()


def test_specks():
    mask = blob((5, 5, 20, 10), (40, 5, 4, 4), (60, 40, 5, 3), size=(100, 100)) // 255
    assert [box.area for box in components(mask)[0]] == [200, 16]  # 16 pixels at least
    assert [box.area for box in components(mask, 15)[0]] == [200, 16, 15]
    assert [box.area for box in components(mask, 0.01)[0]] == [200]
    large = np.kron(mask, np.ones((10, 10), np.uint8))
    large[0, :90] = large[50, 900:910] = 1
    assert [box.area for box in components(large)[0]] == [
        20000,
        1600,
        1500,
    ]  # a share of the area: 200 pixels
    kept = components(large)[1]
    assert kept.sum() == 23100 and kept.dtype == np.uint8


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason='no shared data')
def test_kvasir_gives_the_known_boxes():
    counts = {}
    for split in ('train', 'test'):
        names = (SHARED / 'splits' / f'pranet_{split}_kvasir.txt').read_text().split()
        masks = [read_mask(SHARED / 'kvasir' / 'masks' / f'{name}.png') for name in names]
        counts[split] = sum(len(components(mask)[0]) for mask in masks)
    assert counts == dict(train=943, test=120)


def test_one_split_alone(tmp_path, source):
    assert convert(source, tmp_path / 'out', one_split='test').images == dict(test=4)
    assert [path.name for path in (tmp_path / 'out/annotations').iterdir()] == ['test.json']
    for options, message in (
        (dict(one_split='tests'), "--one-split: unknown name 'tests'; did you mean 'test'"),
        (dict(one_split='test', sequence='folder'), '--one-split and --sequence cannot be given'),
        (dict(splits=dict(train='a'), sequence='folder'), '--split and --sequence cannot be given'),
        (dict(test=['a']), '--test: names sets in FOLDER'),
        (dict(seed=-1), '--seed: expected 0 or more'),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(source, tmp_path / 'other', **options)


def test_swapped_folders_are_noticed(tmp_path, source):
    with pytest.raises(ConfigError, match='look like photographs.* are IMAGES and MASKS swapped'):
        convert_polyps(source / 'masks', source / 'images', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_only_a_folder_that_a_converter_made_is_replaced(tmp_path, source):
    mine = tmp_path / 'mine'
    (mine / 'annotations').mkdir(parents=True)
    (mine / 'annotations/thesis.txt').write_text('text')
    with pytest.raises(FileExistsError, match='was not made by a converter'):
        convert(source, mine, overwrite=True)
    assert (mine / 'annotations/thesis.txt').exists()
    convert(source, tmp_path / 'out', one_split='train')
    assert (tmp_path / 'out' / MARKER).is_file()
    convert(source, tmp_path / 'out', one_split='val', overwrite=True)
    assert (tmp_path / 'out' / MARKER).is_file() and not (tmp_path / 'out/images/train').exists()


def test_outlines_cover_their_components(tmp_path):
    coco_mask = pytest.importorskip('pycocotools.mask')
    generator = np.random.default_rng(0)
    mask = cv2.GaussianBlur(generator.random((120, 160)).astype(np.float32), (0, 0), 6)
    mask = (mask > mask.mean() + 0.01).astype(np.uint8)
    found, kept = components(mask)
    assert len(found) > 3
    for polyp in found:
        (polygon,) = polyp.outline
        xs, ys = polygon[::2], polygon[1::2]
        assert (min(xs), min(ys)) == (polyp.x, polyp.y)
        assert (max(xs), max(ys)) == (polyp.x + polyp.width, polyp.y + polyp.height)
    drawn = sum(
        coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polyp.outline, 120, 160)))
        for polyp in found
    )
    assert drawn.max() == 1 and (drawn != kept).sum() < 1e-3 * kept.sum()
    assert outline(np.ones((1, 1), bool), 3, 4) == [[3, 4, 3, 5, 4, 5, 4, 4]]


def test_masks_are_trained_on(tmp_path, source):
    pytest.importorskip('mmdet')
    from mmengine.registry import DATASETS, init_default_scope

    convert(source, tmp_path / 'out', one_split='train')
    init_default_scope('mmdet')
    dataset = DATASETS.build(
        dict(
            type='mmkd.PolypDetection',
            data_root=str(tmp_path / 'out'),
            ann_file='annotations/train.json',
            data_prefix=dict(img='images/train/'),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            ],
        )
    )
    areas = [item['gt_masks'].areas.tolist() for item in dataset]
    assert sorted(areas) == [[], [180], [200, 72], [4800]]


def test_masks_without_a_bright_value_are_told(tmp_path, source):
    for path in (source / 'masks').iterdir():
        write_image(path, read_image(path, -1) // 85)  # labels 0 and 3
    with pytest.raises(ConfigError, match='no mask has a value above half of its scale'):
        convert(source, tmp_path / 'out', one_split='train')
    write_image(source / 'masks/a.png', blob((10, 20, 15, 12)))
    report = convert(source, tmp_path / 'out', one_split='train')
    assert report.dim == ['d.TIF', 'pólipo 2.png'] and report.boxes == dict(train=1)


def test_images_of_too_many_pixels_are_left_out(tmp_path, source, monkeypatch):
    large = np.zeros((90, 100, 3), np.uint8)
    write_image(source / 'images/large.png', large)
    write_image(source / 'masks/large.png', blob(size=(90, 100)))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 4000)
    report = convert(source, tmp_path / 'out', one_split='train')
    problem = '(has more than 0 million pixels, the most that Pillow reads)'
    assert report.unreadable == [f'image large.png {problem} and mask large.png {problem}']


@pytest.mark.skipif(sys.platform != 'linux', reason='other file systems refuse such names')
def test_names_that_are_not_utf8_are_left_out(tmp_path, source):
    for kind in ('images', 'masks'):
        with open(os.fsencode(source / kind) + b'/\xff.png', 'wb') as file:
            file.write((source / 'masks/a.png').read_bytes())
    report = convert(source, tmp_path / 'out', one_split='train')
    assert report.images == dict(train=4) and report.unlistable == [r"'\udcff.png'"]
    report.table().encode()


def test_gray_images_and_images_with_alpha_are_converted(tmp_path, source):
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 4), np.uint8)
    write_image(source / 'images/alpha.png', image)
    write_image(source / 'images/gray.png', image[..., 0])
    for name in ('alpha', 'gray'):
        write_image(source / f'masks/{name}.png', blob((10, 20, 15, 12)))
    assert convert(source, tmp_path / 'out', one_split='train').boxes == dict(train=6)
