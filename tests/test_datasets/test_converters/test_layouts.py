"""Polyp data sets in the layouts that they are published in, as small fixtures."""

import json
import shutil
from itertools import count as counter
from pathlib import Path

import numpy as np
import pytest

from mmkd.datasets.converters import copies
from mmkd.datasets.converters.polyp_options import PolypOptions
from mmkd.datasets.converters.polyps import convert_polyp_folder
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import read_image, write_image

SEEDS = counter()
MASK = np.zeros((40, 50), np.uint8)
MASK[8:20, 10:30] = 255


def new_image():
    """Draw an image that no other file has."""
    return np.random.default_rng(next(SEEDS)).integers(0, 255, (40, 50, 3), np.uint8)


def add(folder, images, masks, count=4, name='{}.png', mask='{}.png', first=1):
    """Write `count` pairs to folder/images and folder/masks."""
    for place in (images, masks):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        write_image(folder / images / name.format(i), new_image())
        write_image(folder / masks / mask.format(i), MASK)


def add_named(folder, images, masks):
    """Write 40 pairs whose names are no neighbors."""
    for i in range(40):
        add(folder, images, masks, 1, f'cju{3 * i}qkw.png', f'cju{3 * i}qkw.png')


def names(out, split):
    content = json.loads((out / 'annotations' / f'{split}.json').read_text())
    assert sorted(path.name for path in (out / 'images' / split).iterdir()) == sorted(
        image['file_name'] for image in content['images']
    )
    assert sorted(path.stem for path in (out / 'masks' / split).iterdir()) == sorted(
        Path(image['file_name']).stem for image in content['images']
    )
    assert [a['bbox'] for a in content['annotations']] == [[10, 8, 20, 12]] * len(content['images'])
    return [image['file_name'] for image in content['images']]


def convert(tmp_path, **options):
    report = convert_polyp_folder(tmp_path / 'in', tmp_path / 'out', PolypOptions(**options))
    assert not report.left_out and not report.without_image
    return report


def test_kvasir_seg_with_and_without_its_boxes(tmp_path):
    add(tmp_path / 'in/Kvasir-SEG', 'images', 'masks', name='cju{}.jpg', mask='cju{}.jpg', count=10)
    boxes = {
        f'cju{i}': dict(
            width=50,
            height=40,
            bbox=[dict(label='polyp', xmin=9, ymin=8, xmax=31, ymax=20)],
        )
        for i in range(1, 11)
    }
    path = tmp_path / 'in/Kvasir-SEG/kavsir_bboxes.json'
    path.write_text(json.dumps(boxes))
    report = convert(tmp_path)
    assert report.images == report.boxes == dict(train=9, val=1)
    assert [(part.name, part.split, part.pairs) for part in report.parts] == [
        ('Kvasir-SEG', '', 10)
    ]
    assert 'Kvasir-SEG' in report.table().splitlines()[1]
    assert len(names(tmp_path / 'out', 'train')) == 9
    line = 'file of boxes, not used without --boxes: 1: Kvasir-SEG/kavsir_bboxes.json'
    assert line in report.table()
    assert line not in convert(tmp_path, boxes=path, overwrite=True).table()
    (entry,) = json.loads((tmp_path / 'out/annotations/val.json').read_text())['annotations']
    assert entry['bbox'] == [9, 8, 22, 12] and entry['area'] == 240  # the mask in the box
    for change, message in (
        (
            dict(boxes, cju1=dict(boxes['cju1'], width=51)),
            'has 50 x 40 pixels, the file says 51 x 40',
        ),
        ({'cju1': boxes['cju1']}, "no entry for 'cju"),
        (dict(boxes, cju1=dict(width=50)), 'not in the form of Kvasir-SEG'),
        ([1], 'not in the form of Kvasir-SEG'),
    ):
        path.write_text(json.dumps(change))
        with pytest.raises(ConfigError, match=f'--boxes: .*{message}'):
            convert(tmp_path, boxes=path, overwrite=True)


def clinic_db(folder, count=24, rows=None):
    """Write CVC-ClinicDB as on Kaggle, with sequences of 6 images; return its table."""
    for kind in ('png', 'tif'):
        name = '{}.' + kind
        add(folder / kind.upper(), 'Original', 'Ground Truth', count=count, name=name, mask=name)
    rows = rows or [f'{i},{(i - 1) // 6},PNG/Original/{i}.png' for i in range(1, count + 1)]
    table = folder / 'metadata.csv'
    table.write_text('\n'.join(['frame_id,sequence_id,png_image_path', *rows]))
    return table


def test_clinic_db_is_read_once_and_cut_by_the_sequences_of_its_table(tmp_path):
    table = clinic_db(tmp_path / 'in/CVC-ClinicDB')
    report = convert(tmp_path, train_ratio=0.75, seed=3)
    assert report.images == dict(train=18, val=6) and not report.warnings
    assert report.sequences == dict(train=3, val=1)
    line = 'sequences kept together in the random cut, as listed in: 1: CVC-ClinicDB/metadata'
    assert line in report.table()
    numbers = sorted(int(Path(name).stem) for name in names(tmp_path / 'out', 'val'))
    assert numbers == list(range(numbers[0], numbers[0] + 6)) and numbers[0] % 6 == 1
    given = convert(
        tmp_path, overwrite=True, sequence=f'{table}:sequence_id', train_ratio=0.75, seed=3
    )
    assert given.images == report.images and given.sequences == report.sequences
    assert line not in given.table()
    png = convert_polyp_folder(tmp_path / 'in/CVC-ClinicDB/PNG', tmp_path / 'png')
    assert png.sequence_tables == ['../metadata.csv']
    table.unlink()
    report = convert(tmp_path, overwrite=True)
    assert report.images == dict(train=22, val=2) and not report.sequences
    assert 'WARNING: 24 names in CVC-ClinicDB are numbered like frames' in report.table()


def test_clinic_db_without_a_table_is_known_by_its_numbers(tmp_path, monkeypatch):
    """In PraNet's pack, beside other images; whichever numbers are missing."""
    folder = tmp_path / 'in/PraNet/TrainDataset'
    add(folder, 'image', 'mask', count=100)
    add(folder, 'image', 'mask', count=450, first=163)
    add_named(folder, 'image', 'mask')
    report = convert(tmp_path, train_ratio=0.8)
    assert not report.sequences and '550 names in PraNet' in report.table()  # of another size
    monkeypatch.setattr('mmkd.datasets.converters.sequence_tables.SIZE', (50, 40))
    assert 'sequences' not in convert(tmp_path, overwrite=True).table()  # published, not cut
    report = convert(tmp_path, train_ratio=0.8, overwrite=True)
    assert not report.warnings and sum(report.images.values()) == 590
    assert sum(report.sequences.values()) == 27  # the 6th, 104 to 126, and the 7th are not here
    listed = "as listed in: 1: CVC-ClinicDB's list of frames (550 numbers in PraNet/TrainDataset"
    assert listed in report.table()
    train, val = (
        {int(name[:-4]) for name in names(tmp_path / 'out', split) if name[0] != 'c'}
        for split in ('train', 'val')
    )
    assert train and val and len(train) + len(val) == 550
    sequences = [range(1, 26), range(51, 68), range(200, 206), range(479, 504), range(592, 613)]
    assert all(set(each) <= train or set(each) <= val for each in sequences)
    # A set of as many numbers that reach further is another one.
    add(folder, 'image', 'mask', count=1, first=613)
    report = convert(tmp_path, train_ratio=0.8, overwrite=True)
    assert not report.sequences and '551 names in PraNet' in report.table()


def test_videos_numbered_from_1_are_not_clinic_db(tmp_path, monkeypatch):
    module = 'mmkd.datasets.converters.sequence_tables'
    monkeypatch.setattr(f'{module}.SIZE', (50, 40))
    monkeypatch.setattr(f'{module}.FEWEST', 30)
    for video in range(3):
        add(tmp_path / 'in', f'images/video{video}', f'masks/video{video}', count=40)
    report = convert(tmp_path)
    assert not report.sequences and len(report.warnings) == 1
    assert '120 names in in are numbered like frames' in report.table()


def test_clinic_db_beside_a_set_without_sequences(tmp_path):
    clinic_db(tmp_path / 'in/CVC-ClinicDB')
    add_named(tmp_path / 'in/Kvasir', 'images', 'masks')
    report = convert(tmp_path, train_ratio=0.7)
    assert sum(report.images.values()) == 64 and not report.warnings
    assert sum(report.sequences.values()) == 4
    train, val = (
        {
            int(Path(name).stem.rpartition('_')[2])
            for name in names(tmp_path / 'out', split)
            if 'CVC' in name
        }
        for split in ('train', 'val')
    )
    assert len(train) + len(val) == 24
    assert not {(i - 1) // 6 for i in train} & {(i - 1) // 6 for i in val}
    assert any('Kvasir' in name for name in names(tmp_path / 'out', 'val'))


@pytest.mark.parametrize(
    'rows, message',
    [
        (['1,0,PNG/Original/1.png', '2,0,'], 'gives no group for 22 of 24 files'),
        ([f'{i},{i},' for i in range(1, 25)] + ['1,9,'], 'several values of'),
    ],
)
def test_a_table_of_sequences_that_cannot_be_used(tmp_path, rows, message):
    clinic_db(tmp_path / 'in/CVC-ClinicDB', rows=rows)
    table = convert(tmp_path).table()
    assert 'WARNING: CVC-ClinicDB/metadata.csv is not used for the cut: ' in table
    assert message in table and 'WARNING: 24 names in CVC-ClinicDB are numbered' in table


def test_a_table_of_something_else_is_not_read(tmp_path):
    clinic_db(tmp_path / 'in/CVC-ClinicDB').write_text('frame_id,age\n1,70\n')
    report = convert(tmp_path)
    assert len(report.warnings) == 1 and 'metadata.csv' not in report.table()


@pytest.mark.parametrize('numbered, is_warned', [(25, True), (15, False)])
def test_numbered_images_among_named_ones_are_warned_of(tmp_path, numbered, is_warned):
    """PraNet's TrainDataset: Kvasir-SEG by its names, CVC-ClinicDB by its numbers."""
    folder = tmp_path / 'in/PraNet/TrainDataset'
    add_named(folder, 'image', 'mask')
    add(folder, 'image', 'mask', count=numbered)
    assert not convert(tmp_path).warnings  # not cut
    warnings = convert(tmp_path, train_ratio=0.9, overwrite=True).warnings
    assert [
        w.startswith('25 names in PraNet/TrainDataset are numbered like frames of videos')
        for w in warnings
    ] == [True] * is_warned


@pytest.mark.parametrize('around', ['', 'zip', 'data/zip/unpacked/here'])
def test_pranet_keeps_its_split_and_names_each_test_set(tmp_path, around):
    folder = tmp_path / 'in' / around
    add(folder / 'TrainDataset', 'image', 'mask', count=6)
    for name in ('CVC-300', 'Kvasir'):
        add(folder / 'TestDataset' / name, 'images', 'masks', count=2)
    report = convert(tmp_path)
    assert report.images == {'train': 6, 'test_CVC-300': 2, 'test_Kvasir': 2}
    assert names(tmp_path / 'out', 'test_Kvasir') == ['1.png', '2.png']
    report = convert(tmp_path, overwrite=True, train_ratio=0.5)  # asked for: a val of its own
    assert report.images == {'train': 3, 'val': 3, 'test_CVC-300': 2, 'test_Kvasir': 2}


def read_as(folder, place, **options):
    """Return the split that a set in such a folder is read as."""
    add(folder / 'in' / place, 'images', 'masks', count=10)
    (part,) = convert(folder, **options).parts
    return part.split


@pytest.mark.parametrize(
    'place',
    ['Valencia', 'València', 'Vall_dHebron', 'Trainees', 'TRAINEES', 'Testament/a', 'values', 'a1'],
)
def test_a_folder_that_begins_like_a_split_is_cut(tmp_path, place):
    assert read_as(tmp_path, place) == ''
    report = convert(tmp_path, overwrite=True)
    assert report.images == dict(train=9, val=1)


@pytest.mark.parametrize(
    'split, places',
    [
        ('train', 'Train TRAIN Training training-set TrainDataset traindataset train_images'),
        ('train', 'train1 trainset TrainValid trainval a/Train/b'),
        ('val', 'val Val valid Validation val_2 ValDataset valset a/val/b'),
        ('test', 'test Testing test1 testA TestDataset/Kvasir TestEasyDataset/Seen test-set'),
        ('test', 'testset tests TestHardDataset Testing_center'),
    ],
)
def test_a_folder_that_a_split_names(tmp_path, split, places):
    for place in places.split():
        assert read_as(tmp_path / place.replace('/', '-'), place) == split, place


def test_a_folder_alone_that_begins_like_test_is_cut(tmp_path):
    add(tmp_path / 'Testament', 'images', 'masks', count=10)
    report = convert_polyp_folder(tmp_path / 'Testament', tmp_path / 'out')
    assert report.images == dict(train=9, val=1) and not report.held_out


def copied(folder, to, numbers):
    """Copy images of a set to another one, with their masks, names and bytes."""
    for i in numbers:
        for source, target in zip(('images', 'masks'), to[1:]):
            (to[0] / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / source / f'{i}.png', to[0] / target / f'{i}.png')


def contents(out, split):
    return {path.read_bytes() for path in (out / f'images/{split}').iterdir()}


def test_images_that_a_test_set_has_are_not_trained_on(tmp_path):
    """Kvasir-SEG beside PraNet's test images, which are some of it."""
    kvasir, out = tmp_path / 'in/Kvasir-SEG', tmp_path / 'out'
    add(kvasir, 'images', 'masks', count=25)
    copied(kvasir, (tmp_path / 'in/TestDataset/Kvasir', 'images', 'masks'), range(1, 6))
    report = convert(tmp_path)
    assert report.images == dict(train=18, val=2, test=5)  # the cut is of the other 20
    assert not contents(out, 'test') & (contents(out, 'train') | contents(out, 'val'))
    line = (
        'copy of an image in another split, byte for byte, left out: 5: '
        'Kvasir-SEG/1.png (as Kvasir/1.png in test), '
    )
    assert line in report.table()
    assert convert(tmp_path, strict=True, overwrite=True).images == report.images
    together = convert(tmp_path, one_split='train', overwrite=True)
    assert together.images == dict(train=30) and not together.copies
    held = convert(tmp_path, test=['Kvasir-SEG'], overwrite=True)  # two test sets may share images
    assert held.images == {'test_Kvasir': 5, 'test_Kvasir-SEG': 25} and not held.copies


def test_published_splits_that_share_images(tmp_path):
    """Train gives way to val, and both to test; a set without a split to all."""
    folder, out = tmp_path / 'in', tmp_path / 'out'
    add(folder / 'Kvasir', 'images', 'masks', count=30)
    copied(folder / 'Kvasir', (folder / 'train', 'image', 'mask'), range(1, 11))
    copied(folder / 'Kvasir', (folder / 'val', 'image', 'mask'), range(8, 14))
    copied(folder / 'Kvasir', (folder / 'test', 'image', 'mask'), range(10, 16))
    report = convert(tmp_path)
    assert report.images == dict(train=7 + 14, val=2 + 1, test=6)
    assert len(contents(out, 'train') | contents(out, 'val') | contents(out, 'test')) == 30
    assert len(report.copies) == 15 + 3 + 4


def test_copies_in_the_random_cut_are_on_one_side(tmp_path):
    add(tmp_path / 'in/a', 'images', 'masks', count=40)
    copied(tmp_path / 'in/a', (tmp_path / 'in/b', 'images', 'masks'), range(1, 41))
    report = convert(tmp_path, train_ratio=0.5)
    train, val = (contents(tmp_path / 'out', split) for split in ('train', 'val'))
    assert not train & val and len(train | val) == 40
    assert report.images['val'] == 40 and report.images['train'] == 40 - len(report.copies)
    assert '(as ' in report.copies[0] and report.copies[0].endswith(' in val)')


def test_a_split_of_copies_alone_is_refused(tmp_path):
    add(tmp_path / 'in/test', 'images', 'masks', count=3)
    copied(tmp_path / 'in/test', (tmp_path / 'in/train', 'images', 'masks'), (1, 2))
    message = "split 'train': other splits have each of its 2 images, byte for byte: train/1.png"
    with pytest.raises(ConfigError, match=message):
        convert(tmp_path)


def test_files_that_are_not_read_are_no_copies(tmp_path):
    """Empty files and links to nowhere are reported as unreadable, not as copies."""
    for split in ('train', 'test'):
        add(tmp_path / 'in' / split, 'images', 'masks', count=4)
        (tmp_path / 'in' / split / 'images/1.png').write_bytes(b'')
        (tmp_path / 'in' / split / 'images/2.png').unlink()
        (tmp_path / 'in' / split / 'images/2.png').symlink_to('nowhere')
    report = convert_polyp_folder(tmp_path / 'in', tmp_path / 'out')
    assert len(report.unreadable) == 4 and not report.copies


def test_only_files_that_may_be_equal_are_read_as_a_whole(tmp_path, monkeypatch):
    """Sizes tell most apart, a piece of the middle those of one size (BMP, TIFF)."""
    for split in ('train', 'test'):
        add(tmp_path / 'in' / split, 'images', 'masks', name='{}.bmp')
    copied_to = tmp_path / 'in/train/images/9.bmp'
    shutil.copy(tmp_path / 'in/test/images/1.bmp', copied_to)
    shutil.copy(tmp_path / 'in/test/masks/1.png', tmp_path / 'in/train/masks/9.png')
    read = []
    monkeypatch.setattr(copies, '_digest', lambda path: read.append(path) or path.read_bytes())
    report = convert(tmp_path)
    assert report.copies == ['train/9.bmp (as test/1.bmp in test)']
    assert sorted(read) == [tmp_path / 'in/test/images/1.bmp', copied_to]


def test_sets_of_one_published_split_do_not_replace_images_of_each_other(tmp_path):
    for name in ('a', 'b'):
        add(tmp_path / 'in' / name / 'val', 'images', 'masks')
    with pytest.raises(ConfigError, match="val/1.png and val/1.png would have one name, '1'"):
        convert(tmp_path)


def test_a_folder_of_test_sets_alone_is_no_training_set(tmp_path, monkeypatch):
    folder = tmp_path / 'TestDataset'
    for name in ('CVC-300', 'Kvasir'):
        add(folder / name, 'images', 'masks', count=5)
    report = convert_polyp_folder(folder, tmp_path / 'out')
    assert report.images == {'test_CVC-300': 5, 'test_Kvasir': 5}
    assert [part.split for part in report.parts] == ['test', 'test']
    assert "for test by FOLDER's own name: 2: CVC-300, Kvasir" in report.table()
    monkeypatch.chdir(folder)
    again = convert_polyp_folder('.', tmp_path / 'out', PolypOptions(overwrite=True))
    assert again.images == report.images
    # Asked for otherwise, they are no test sets, and the names of their images are told apart.
    report = convert_polyp_folder(folder, tmp_path / 'one', PolypOptions(one_split='train'))
    assert report.images == dict(train=10) and not report.held_out
    assert {'CVC-300_1.png', 'Kvasir_1.png'} < set(names(tmp_path / 'one', 'train'))
    # Nor where a share is given: images are cut, by sets and all.
    report = convert_polyp_folder(folder, tmp_path / 'share', PolypOptions(train_ratio=0.5))
    assert report.images == dict(train=5, val=5) and not report.held_out
    # A training set alone is cut, as a set of any other name.
    add(tmp_path / 'TrainDataset', 'image', 'mask', count=10)
    report = convert_polyp_folder(tmp_path / 'TrainDataset', tmp_path / 'cut')
    assert report.images == dict(train=9, val=1)


@pytest.mark.parametrize(
    'images, masks, mask',
    [
        ('ETIS-LaribPolypDB', 'Ground Truth', 'p{}.png'),
        ('CVC-ColonDB', 'masks', 'p{}.png'),
        ('bbdd', 'gtpolyp', '{}.png'),
        ('Images', 'GT', '{}_mask.png'),
    ],
)
def test_sets_with_names_of_their_own(tmp_path, images, masks, mask):
    add(tmp_path / 'in/set', images, masks, mask=mask)
    report = convert(tmp_path, one_split='test')
    assert report.images == dict(test=4)
    assert names(tmp_path / 'out', 'test') == ['1.png', '2.png', '3.png', '4.png']


def test_polypgen_centers_can_be_held_out(tmp_path):
    for i in (1, 2, 6):
        add(
            tmp_path / f'in/data_C{i}',
            f'images_C{i}',
            f'masks_C{i}',
            count=3,
            name='100H00{}.jpg',
            mask='100H00{}_mask.jpg',
        )
    report = convert(tmp_path, test=['data_C6'], sequence='folder')
    assert report.images == {'train': 3, 'val': 3, 'test_data_C6': 3}
    assert {name[:8] for name in names(tmp_path / 'out', 'train')} | {
        name[:8] for name in names(tmp_path / 'out', 'val')
    } == {'data_C1_', 'data_C2_'}
    with pytest.raises(ConfigError, match="--test: unknown name 'data_C7'; did you mean 'data_C6'"):
        convert(tmp_path, test=['data_C7'], overwrite=True)


def test_videos_in_folders_stay_together(tmp_path):
    for case in ('case1', 'case2', 'case3', 'case4'):
        add(tmp_path / 'in', f'Frame/{case}', f'GT/{case}', count=5, name='f{}.jpg', mask='f{}.png')
    report = convert(tmp_path, sequence='folder', train_ratio=0.75)
    assert report.images == dict(train=15, val=5) and report.sequences == dict(train=3, val=1)
    assert len({name.split('_')[0] for name in names(tmp_path / 'out', 'val')}) == 1
    with pytest.raises(ConfigError, match='two sequences at least, got 1'):
        convert(tmp_path, sequence='case', overwrite=True)


@pytest.mark.parametrize('around', ['', 'all/zip/SUN-SEG'])
def test_sun_seg_has_seen_and_unseen_test_sets(tmp_path, around):
    folder = tmp_path / 'in' / around
    for place in ('TrainDataset', 'TestEasyDataset/Seen', 'TestEasyDataset/Unseen'):
        for kind in ('GT', 'Edge'):
            add(folder / place, 'Frame/case1', f'{kind}/case1', count=2)
    report = convert(tmp_path)
    assert report.images == {'train': 2, 'test_Seen': 2, 'test_Unseen': 2}
    assert report.in_no_set == [f'{part.name}/Edge (2 images)' for part in report.parts]


def alone(folder):
    """Write an image without a mask."""
    folder.mkdir(parents=True)
    write_image(folder / '1.jpg', new_image())


def test_polypgen_with_its_sequences_in_folders_around_it(tmp_path):
    folder = tmp_path / 'in/zip/PolypGen2021_MultiCenterData_v3'
    add(folder / 'data_C1', 'images_C1', 'masks_C1', name='{}.jpg', mask='{}_mask.jpg')
    for i in (1, 2):
        place = folder / f'sequenceData/positive/seq{i}'
        add(place, f'images_seq{i}', f'masks_seq{i}', name='{}.jpg', mask='{}_mask.jpg')
        alone(folder / f'sequenceData/negativeOnly/seq{i}_neg')
    alone(folder / 'data_C1/bbox_image_C1')
    report = convert(tmp_path, sequence='folder')
    start = 'zip/PolypGen2021_MultiCenterData_v3/'
    assert [part.name.removeprefix(start) for part in report.parts] == [
        'data_C1',
        'sequenceData/positive/seq1',
        'sequenceData/positive/seq2',
    ]
    assert sum(report.images.values()) == 12 and sum(report.sequences.values()) == 3
    assert report.in_no_set == [
        f'{start}data_C1/bbox_image_C1 (1 image)',
        f'{start}sequenceData/negativeOnly (2 images)',
    ]
    assert 'folder of images in no set (no masks beside it), ignored: 2: zip' in report.table()


def test_several_pairs_of_folders_at_one_place(tmp_path):
    for i in (1, 2):
        add(tmp_path / 'in/all', f'images_C{i}', f'masks_C{i}', name='{}.jpg', mask='{}_mask.jpg')
    report = convert(tmp_path, one_split='train')
    assert [(p.name, p.pairs) for p in report.parts] == [('all/images_C1', 4), ('all/images_C2', 4)]
    assert report.images == dict(train=8)


def test_linked_sets_are_found(tmp_path):
    add(tmp_path / 'elsewhere/Kvasir', 'images', 'masks', name='cju{}.png', mask='cju{}.png')
    add(tmp_path / 'elsewhere/ETIS', 'images', 'masks', name='{}.png')
    (tmp_path / 'in').mkdir()
    for name in ('Kvasir', 'ETIS'):
        (tmp_path / 'in' / name).symlink_to(tmp_path / 'elsewhere' / name)
    (tmp_path / 'in/again').symlink_to('.')
    (tmp_path / 'in/around').symlink_to('..')
    report = convert(tmp_path, one_split='train')
    assert [(part.name, part.pairs) for part in report.parts] == [('ETIS', 4), ('Kvasir', 4)]


def test_too_few_images_for_a_cut(tmp_path):
    add(tmp_path / 'in', 'images', 'masks', count=4)
    with pytest.raises(
        ConfigError, match="split 'val': .* leaves no image for it; use --one-split"
    ):
        convert(tmp_path)
    assert convert(tmp_path, one_split='val').images == dict(val=4)


def boxes(folder, video, count=3, text='1\n10 8 30 20\n', name='{}'):
    for i in range(1, count + 1):
        place = folder / 'Images' / video
        place.mkdir(parents=True, exist_ok=True)
        write_image(place / f'{name.format(i)}.jpg', new_image())
        place = folder / 'Annotations' / video
        place.mkdir(parents=True, exist_ok=True)
        (place / f'{i}.txt').write_text(text)


def test_ld_polyp_video_has_boxes_alone(tmp_path):
    boxes(tmp_path / 'in/Train', '1')
    boxes(tmp_path / 'in/Train', '2', text='2\n-3 8 30 20\n 30 30 60 39 \n', name='v_2_{}')
    boxes(tmp_path / 'in/Test', '3', text='0\n')
    (tmp_path / 'in/Test/Annotations/3/9.txt').write_text('0\n')
    report = convert_polyp_folder(tmp_path / 'in', tmp_path / 'out', PolypOptions())
    assert report.images == dict(train=6, test=3) and report.boxes == dict(train=9, test=0)
    assert report.negatives['test'] == 3 and report.without_image == ['9.txt']
    content = json.loads((tmp_path / 'out/annotations/train.json').read_text())
    assert [image['file_name'] for image in content['images']][2:4] == [
        'Train_1_3.jpg',
        'Train_2_v_2_1.jpg',
    ]
    found = [a['bbox'] for a in content['annotations']]
    assert found[0] == [10, 8, 20, 12] and found[3:5] == [[0, 8, 30, 12], [30, 30, 20, 9]]
    assert not list((tmp_path / 'out/masks').iterdir())
    (tmp_path / 'in/Train/Annotations/1/1.txt').unlink()
    report = convert_polyp_folder(
        tmp_path / 'in', tmp_path / 'out', PolypOptions(sequence='folder', overwrite=True)
    )
    assert report.without_mask == ['1.jpg'] and report.images['train'] == 5


@pytest.mark.parametrize('text', ['', '2\n1 2 3 4\n', '1\n1 2 3\n', 'x\n', '1\n60 8 70 20\n'])
def test_box_files_of_another_form(tmp_path, text):
    boxes(tmp_path / 'in', '1', text=text)
    with pytest.raises(ConfigError, match=r'1\.txt: '):
        convert_polyp_folder(tmp_path / 'in', tmp_path / 'out')


def test_folders_without_a_layout(tmp_path):
    (tmp_path / 'in/pictures').mkdir(parents=True)
    with pytest.raises(ConfigError, match='has no folder of images .* name both: IMAGES MASKS OUT'):
        convert(tmp_path)
    with pytest.raises(FileNotFoundError, match='FOLDER: no folder'):
        convert_polyp_folder(tmp_path / 'nowhere', tmp_path / 'out')
    add(tmp_path / 'in', 'images', 'masks')
    add(tmp_path / 'in', 'images', 'masks', count=1, mask='{}.bmp')
    with pytest.raises(ConfigError, match='1.bmp and 1.png have the same stem'):
        convert(tmp_path)
    with pytest.raises(ConfigError, match='OUT: .* must lie apart from FOLDER'):
        convert_polyp_folder(tmp_path / 'in', tmp_path / 'in/out')


def test_links_in_a_circle_are_read_once(tmp_path):
    add(tmp_path / 'in', 'images', 'masks', count=10)
    (tmp_path / 'in/images/again').symlink_to(tmp_path / 'in/images')
    (tmp_path / 'in/again').symlink_to(tmp_path / 'in')
    assert sum(convert(tmp_path).images.values()) == 10
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(ConfigError, match='OUT: .*loop'):
        convert_polyp_folder(tmp_path / 'in', tmp_path / 'loop')


def test_images_of_two_formats_are_warned_of(tmp_path):
    add(tmp_path / 'in', 'images', 'masks')
    add(tmp_path / 'in', 'images', 'masks', name='{}.jpg', count=2, first=8)
    report = convert(tmp_path, one_split='train')
    assert report.warnings == [
        "split 'train' has images of several suffixes (.jpg, .png); mmkd.PolypSegmentation reads "
        'those of its img_suffix alone'
    ]
    assert read_image(tmp_path / 'out/masks/train/1.png', -1).sum() == 240
