import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmkd.datasets.converters.tile_folders import SPLITS, Tile, patient_of
from mmkd.datasets.converters.tiles import convert_tiles, is_tile, split_by_patient
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import write_image

ROOT = Path(__file__).resolve().parents[3]
TILE = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)


def tile_name(patient, number, suffix='png'):
    """A name as Kather's: a random block, then the TCGA barcode of the slide."""
    return f'blk-{number:012d}-{patient}-01Z-00-DX1.{suffix}'


def add_tiles(folder, patients, first=0, suffix='png'):
    """Write tiles of the patients {code: count} to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for patient, count in patients.items():
        for i in range(first, first + count):
            write_image(folder / tile_name(patient, i, suffix), TILE)


def code(i):
    return f'TCGA-AA-{i:04d}'


@pytest.fixture
def source(tmp_path):
    """Ten patients with MSS (3 tiles each) and ten with MSIMUT (2 tiles each)."""
    folder = tmp_path / 'source'
    add_tiles(folder / 'MSS', {code(i): 3 for i in range(10)})
    add_tiles(folder / 'MSIMUT', {code(i): 2 for i in range(10, 20)})
    return folder


@pytest.fixture
def published(tmp_path):
    """The published layout, in two letter cases, with different patients in TRAIN and Test."""
    folder = tmp_path / 'source'
    add_tiles(folder / 'TRAIN' / 'MSS', {code(1): 2, code(2): 1})
    add_tiles(folder / 'TRAIN' / 'MSIMUT', {code(3): 1})
    add_tiles(folder / 'Test' / 'MSS', {code(4): 1})
    add_tiles(folder / 'Test' / 'MSIMUT', {code(5): 2})
    return folder


def run_tool(source, out, *arguments):
    command = [sys.executable, 'tools/convert_tiles.py', source, out, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)


def read_list(out, split):
    """Return [(name, label), ...]."""
    lines = (out / 'meta' / f'{split}.txt').read_text(encoding='utf-8').split('\n')
    assert lines.pop() == ''
    return [(name, int(label)) for name, label in (line.rsplit(' ', 1) for line in lines)]


def patients_in(out, split):
    return {patient_of(name) for name, _ in read_list(out, split)}


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_tool_writes_lists_and_reports(tmp_path, source):
    whole = (source / 'MSS' / tile_name(code(0), 0)).read_bytes()
    (source / 'MSS' / 'cut.png').write_bytes(whole[: len(whole) // 2])
    (source / 'MSS' / 'zero.tif').write_bytes(b'')
    (source / 'MSIMUT' / 'text.jpg').write_text('no image')
    (source / 'MSS' / '._hidden.png').write_text('of macOS')
    (source / 'MSS' / 'notes.txt').write_text('no image')
    add_tiles(source / 'TUMOR', {code(30): 1})
    out = tmp_path / 'out'
    done = run_tool(source, out)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    for row in (
        ['train', 'MSS', '24', '8'],
        ['train', 'MSIMUT', '16', '8'],
        ['val', 'MSS', '6', '2'],
        ['val', 'MSIMUT', '4', '2'],
    ):
        assert row in table
    for line in (
        'split: random, by patient (train ratio 0.8, seed 0)',
        'unreadable, left out: 3: MSS/cut.png, MSS/zero.tif, MSIMUT/text.jpg',
        'folder that is none of the classes, not read: 1: TUMOR',
        f'wrote {out}',
    ):
        assert line in done.stdout
    assert not done.stderr and '\r' not in done.stdout  # progress is for terminals
    assert 'no patient code' not in done.stdout and 'LEAK' not in done.stdout
    train, val = read_list(out, 'train'), read_list(out, 'val')
    assert len(train) == 40 and len(val) == 10 and len(set(train + val)) == 50
    assert all(label == ('MSS', 'MSIMUT').index(name.split('/')[0]) for name, label in train + val)
    assert not patients_in(out, 'train') & patients_in(out, 'val')
    assert (out / 'images').is_symlink() and (out / 'images').resolve() == source
    assert json.loads((out / 'annotations' / 'tiles.json').read_text())['tiles'] == dict(
        train=[24, 16], val=[6, 4]
    )
    assert left_in(tmp_path) == ['out', 'source']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--strict'], 'MSS/cut.png'),
        (['--classes', 'MSS', 'MSIMUTT'], "no folder 'MSIMUTT'"),
        (['--train-ratio', '1'], '--train-ratio: expected a share in (0, 1), got 1.0'),
    ],
)
def test_tool_fails_with_one_message(tmp_path, source, arguments, message):
    (source / 'MSS' / 'cut.png').write_bytes(
        (source / 'MSS' / tile_name(code(0), 0)).read_bytes()[:99]
    )
    done = run_tool(source, tmp_path / 'out', *arguments)
    assert done.returncode == 1 and message in done.stderr and 'Traceback' not in done.stderr
    assert done.stderr.count('error:') == 1 and left_in(tmp_path) == ['source']


def test_a_stopped_tool_leaves_nothing(tmp_path, source):
    write_image(
        tmp_path / 'source' / 'MSS' / 'large.png', np.kron(TILE, np.ones((100, 100, 1), np.uint8))
    )
    for i in range(300):
        os.link(source / 'MSS' / 'large.png', source / 'MSS' / f'large{i}.png')
    command = [sys.executable, 'tools/convert_tiles.py', source, tmp_path / 'out']
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
    assert left_in(tmp_path) == ['source']


@pytest.mark.parametrize('copy', [False, True])
def test_the_data_set_loads(tmp_path, source, copy):
    pytest.importorskip('mmpretrain')
    from mmkd.datasets.folder_classification import FolderClassification

    add_tiles(source / 'MSS', {code(0): 1}, first=7, suffix='jpg')
    (source / 'MSS' / tile_name(code(0), 7, 'jpg')).rename(
        source / 'MSS' / f'azul ñ {code(0)} (1).JPG'
    )
    out = tmp_path / 'deep' / 'out'
    convert_tiles(source, out, copy=copy)
    assert (out / 'images').is_symlink() != copy
    total = 0
    for split in ('train', 'val'):
        data = FolderClassification(
            data_root=str(out),
            data_prefix='images',
            ann_file=f'meta/{split}.txt',
            metainfo=dict(classes=('MSS', 'MSIMUT')),
            pipeline=[dict(type='LoadImageFromFile')],
        )
        for i in range(len(data)):
            result = data[i]
            assert result['img'].shape == (16, 16, 3)
            assert result['gt_label'] == ('MSS', 'MSIMUT').index(
                Path(result['img_path']).parent.name
            )
        total += len(data)
    assert total == 51


def test_the_link_holds_where_both_are_moved(tmp_path, source):
    convert_tiles(source, tmp_path / 'sets' / 'out')
    moved = tmp_path.with_name(tmp_path.name + '_moved')
    tmp_path.rename(moved)
    name, _ = read_list(moved / 'sets' / 'out', 'val')[0]
    assert (moved / 'sets' / 'out' / 'images' / name).is_file()
    moved.rename(tmp_path)


def test_a_copy_has_the_usable_tiles_alone(tmp_path, source):
    (source / 'MSS' / 'cut.png').write_bytes(b'\x89PNG')
    out = tmp_path / 'out'
    convert_tiles(source, out, copy=True)
    copied = {
        path.relative_to(out / 'images').as_posix() for path in (out / 'images').rglob('*.png')
    }
    assert (
        copied == {name for split in ('train', 'val') for name, _ in read_list(out, split)}
        and len(copied) == 50
    )
    name = tile_name(code(0), 0)
    assert (out / 'images' / 'MSS' / name).read_bytes() == (source / 'MSS' / name).read_bytes()


def test_no_link_possible(tmp_path, source, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError('operation not supported')

    monkeypatch.setattr(Path, 'symlink_to', refuse)
    with pytest.raises(ValueError, match='cannot make a link .*not supported.*--copy'):
        convert_tiles(source, tmp_path / 'out')
    assert left_in(tmp_path) == ['source']
    convert_tiles(source, tmp_path / 'out', copy=True)


def test_a_published_split_is_kept(tmp_path, published):
    (published / '__MACOSX').mkdir()
    report = convert_tiles(published, tmp_path / 'out')
    assert report.tiles == dict(train=[3, 1], val=[1, 2]) and report.patients == dict(
        train=[2, 1], val=[1, 1]
    )
    assert report.leaks == [] and report.not_read == ['__MACOSX']
    assert read_list(tmp_path / 'out', 'val') == [(f'Test/MSS/{tile_name(code(4), 0)}', 0)] + [
        (f'Test/MSIMUT/{tile_name(code(5), i)}', 1) for i in range(2)
    ]
    assert 'split: as published (TRAIN, Test)' in report.table()


def test_a_patient_in_both_published_splits_is_a_leak(tmp_path, published):
    add_tiles(
        published / 'Test' / 'MSIMUT', {code(1).lower(): 1}, first=5
    )  # in the other class: a leak as well
    for place in ('TRAIN', 'Test'):
        write_image(
            published / place / 'MSS' / 'same.png', TILE
        )  # no patient code: no leak that names could show
    report = convert_tiles(published, tmp_path / 'out')
    assert report.leaks == report.two_classes == [code(1)]
    assert f'LEAK: patient in both published splits, kept: 1: {code(1)}' in report.table()
    assert report.without_code == 2 and report.tiles == dict(train=[4, 1], val=[2, 3])


def test_published_splits_that_are_wrong(tmp_path, published):
    def fails(match):
        with pytest.raises(ValueError, match=match):
            convert_tiles(published, tmp_path / 'out')

    (published / 'val').mkdir()
    fails('Test and val .* are both val')
    (published / 'val').rmdir()
    (published / 'MSS').mkdir()
    fails(r'has split folders \(TRAIN, Test\) and class folders \(MSS\)')
    (published / 'MSS').rmdir()
    (published / 'Test' / 'MSS').rename(published / 'Test' / 'mss')
    fails("no folder 'MSS' in '.*Test'; did you mean 'mss'")
    (published / 'Test').rename(published / 'other')
    fails(
        r'has TRAIN but not both TRAIN and TEST \(folders found: TRAIN, other\); '
        'for a random cut name TRAIN'
    )
    assert left_in(tmp_path) == ['source']
    add_tiles(published / 'TRAIN' / 'MSIMUT', {code(6): 1})
    convert_tiles(published / 'TRAIN', tmp_path / 'out')  # as the message advises


@pytest.mark.parametrize('name', ['tile_{}.png', 'TCGA-AA-38501-{}.png', 'XTCGA-AA-3850-{}.png'])
def test_names_without_patient_need_a_rule(tmp_path, name):
    for label in ('MSS', 'MSIMUT'):
        (tmp_path / 'source' / label).mkdir(parents=True)
        for i in range(10):
            write_image(
                tmp_path / 'source' / label / name.format(i), TILE
            )  # the same names in both classes
    with pytest.raises(
        ConfigError, match='--patient: no file name has a TCGA barcode .*MSS/.*0.png'
    ):
        convert_tiles(tmp_path / 'source', tmp_path / 'out')
    assert left_in(tmp_path) == ['source']
    report = convert_tiles(tmp_path / 'source', tmp_path / 'out', patient='file')
    assert report.tiles == report.patients == dict(train=[8, 8], val=[2, 2])
    assert report.two_classes == [] and not report.warnings


def test_some_names_without_patient_are_warned_of(tmp_path, source):
    for i in range(3):
        write_image(source / 'MSS' / f'{i}.png', TILE)
    report = convert_tiles(source, tmp_path / 'out')
    assert report.without_code == 3
    assert 'each file counts as its own patient: 3' in report.table()
    assert 'WARNING: 3 of 53 tiles have no TCGA barcode' in report.table()


def test_a_tile_for_every_patient_is_warned_of(tmp_path):
    for label, first in (('MSS', 0), ('MSIMUT', 10)):
        add_tiles(tmp_path / 'source' / label, {code(first + i): 1 for i in range(5)})
    report = convert_tiles(tmp_path / 'source', tmp_path / 'out')
    assert 'WARNING: --patient tcga: every patient has one tile' in report.table()


@pytest.fixture
def patients(tmp_path):
    """Six patients in each class, four tiles each, as MSS/patient03/017.png; MSIMUT has others."""
    for label, first in (('MSS', 0), ('MSIMUT', 6)):
        for patient in range(first, first + 6):
            folder = tmp_path / 'source' / label / f'patient{patient:02d}'
            folder.mkdir(parents=True)
            for i in range(4):
                write_image(folder / f'{i:03d}.png', TILE)
    return tmp_path / 'source'


def check_split_of_patients(report, out):
    assert report.patients == dict(train=[5, 5], val=[1, 1])
    assert report.tiles == dict(train=[20, 20], val=[4, 4]) and not report.leaks
    found = [{re.search(r'patient\d\d', name)[0] for name, _ in read_list(out, s)} for s in SPLITS]
    assert not found[0] & found[1] and len(found[0] | found[1]) == 12
    assert not report.warnings


def test_patients_by_folder(tmp_path, patients):
    with pytest.raises(ConfigError, match='no image .* in folder .MSS.*it has folders: --patient'):
        convert_tiles(patients, tmp_path / 'out')
    report = convert_tiles(patients, tmp_path / 'out', patient='folder')
    check_split_of_patients(report, tmp_path / 'out')
    write_image(patients / 'MSS' / 'alone.png', TILE)
    with pytest.raises(
        ConfigError, match='--patient folder: gives no group for 1 of 49 .*alone.png'
    ):
        convert_tiles(patients, tmp_path / 'other', patient='folder')


def flat(patients):
    """The same tiles as MSS/patient03_017.png."""
    for path in sorted(patients.glob('*/*/*.png')):
        path.rename(path.parent.parent / f'{path.parent.name}_{path.name}')
    for folder in patients.glob('*/*/'):
        folder.rmdir()


def test_patients_by_pattern(tmp_path, patients):
    flat(patients)
    report = convert_tiles(patients, tmp_path / 'out', patient=r'patient(\d+)_')
    check_split_of_patients(report, tmp_path / 'out')
    with pytest.raises(ConfigError, match='--patient: .* is no regular expression'):
        convert_tiles(patients, tmp_path / 'other', patient='patient(')
    with pytest.raises(ConfigError, match='gives no group for 48 of 48 files'):
        convert_tiles(patients, tmp_path / 'other', patient='case')
    report = convert_tiles(patients, tmp_path / 'other', patient='.*')
    assert 'every patient has one tile' in report.table()


def test_patients_by_table(tmp_path, patients):
    flat(patients)
    table = tmp_path / 'meta.csv'
    lines = [f'{p.stem},{p.stem[:9]},x' for p in sorted(patients.glob('*/*.png'))]
    table.write_text('\n'.join(['tile,who,site', *lines]) + '\n')
    report = convert_tiles(patients, tmp_path / 'out', patient=f'{table}:who')
    check_split_of_patients(report, tmp_path / 'out')
    for rule, message in (
        (f'{table}:whom', "unknown name 'whom'; did you mean 'who'"),
        (f'{table}', 'expected FILE.csv:COLUMN'),
        (f'{tmp_path}/no.csv:who', 'no file .*no.csv'),
    ):
        with pytest.raises(ConfigError, match=f'--patient.*{message}'):
            convert_tiles(patients, tmp_path / 'other', patient=rule)
    table.write_text('\n'.join(['tile,who', *lines[3:]]) + '\n')
    with pytest.raises(ConfigError, match='gives no group for 3 of 48 files'):
        convert_tiles(patients, tmp_path / 'other', patient=f'{table}:who')
    table.write_text('\n'.join(['tile,who', *lines, f'{lines[0].split(",")[0]},another,x']) + '\n')
    with pytest.raises(ConfigError, match='several values'):
        convert_tiles(patients, tmp_path / 'other', patient=f'{table}:who')


def test_patient_of():
    assert patient_of('TRAIN/MSS/blk-AAAGHKWTDRNS-TCGA-AA-3850-01Z-00-DX1.png') == 'TCGA-AA-3850'
    assert patient_of('TCGA-A6-2671.jpg') == patient_of('x_tcga-a6-2671_1.jpg') == 'TCGA-A6-2671'
    assert patient_of('TCGA-AA-3850/1.png') is None  # a folder's name is none of the tile's


def test_the_cut_depends_on_names_and_seed_alone(tmp_path, source, monkeypatch):
    cuts = [convert_and_read(source, tmp_path / str(i), seed) for i, seed in enumerate((0, 0, 1))]
    assert cuts[0] == cuts[1] != cuts[2]
    entries = Path.iterdir
    monkeypatch.setattr(Path, 'iterdir', lambda path: reversed(sorted(entries(path))))
    assert convert_and_read(source, tmp_path / 'reversed', 0) == cuts[0]
    source.rename(tmp_path / 'elsewhere')
    assert convert_and_read(tmp_path / 'elsewhere', tmp_path / 'moved', 0) == cuts[0]


def convert_and_read(source, out, seed):
    convert_tiles(source, out, seed=seed)
    return read_list(out, 'train'), read_list(out, 'val')


def test_the_cut_is_near_the_ratio_in_each_class():
    generator = np.random.default_rng(1)
    tiles = [
        Tile(f'{label}/{patient}-{i}', label, '', f'{label}-{patient}')
        for label, count in ((0, 60), (1, 15))
        for patient in range(count)
        for i in range(generator.integers(1, 200))
    ]
    for ratio in (0.5, 0.7, 0.8):
        for seed in range(5):
            train = split_by_patient(tiles, ratio, seed)
            for label in (0, 1):
                sizes = {}
                for tile in tiles:
                    if tile.label == label:
                        sizes[tile.patient] = sizes.get(tile.patient, 0) + 1
                total = sum(sizes.values())
                share = sum(size for patient, size in sizes.items() if patient in train) / total
                assert (
                    abs(share - ratio) <= max(sizes.values()) / total / 2
                )  # as far as whole patients allow


def test_a_large_patient_leaves_one_on_each_side(tmp_path):
    for label, first in (('MSS', 0), ('MSIMUT', 2)):
        add_tiles(tmp_path / 'source' / label, {code(first): 30, code(first + 1): 1})
    for seed in range(4):
        report = convert_tiles(
            tmp_path / 'source', tmp_path / 'out', train_ratio=0.99, seed=seed, overwrite=True
        )
        assert report.patients == dict(train=[1, 1], val=[1, 1])


def test_a_patient_with_two_classes_stays_whole(tmp_path, source):
    add_tiles(source / 'MSIMUT', {code(0): 1}, first=9)
    for seed in range(3):
        report = convert_tiles(source, tmp_path / 'out', seed=seed, overwrite=True)
        assert report.two_classes == [code(0)]
        assert not patients_in(tmp_path / 'out', 'train') & patients_in(tmp_path / 'out', 'val')


def test_one_patient_in_a_class(tmp_path):
    add_tiles(tmp_path / 'source' / 'MSS', {code(0): 3, code(1): 3})
    add_tiles(tmp_path / 'source' / 'MSIMUT', {code(2): 3})
    with pytest.raises(
        ValueError,
        match="split 'val': no usable tile of class 'MSIMUT'.*two patients in each class",
    ):
        convert_tiles(tmp_path / 'source', tmp_path / 'out')
    assert left_in(tmp_path) == ['source']


def test_classes_that_are_missing_or_empty(tmp_path, source):
    def fails(classes, match):
        with pytest.raises(ValueError, match=match):
            convert_tiles(source, tmp_path / 'out', classes=classes)

    fails(
        ('MSS', 'MSIMUTT'),
        r"--classes: no folder 'MSIMUTT' in .*; did you mean 'MSIMUT'\? "
        r'\(folders found: MSIMUT, MSS\)',
    )
    fails(('mss', 'MSIMUT'), "did you mean 'MSS'")
    fails(('MSS', 'xyzxyz'), r"'xyzxyz' in '[^;]*' \(folders found: MSIMUT, MSS\)")
    (source / 'MSI_MUT').mkdir()
    (source / 'MSI_MUT' / 'notes.txt').write_text('no image')
    fails(('MSS', 'MSI_MUT'), r"no image \(.*\) in folder 'MSI_MUT' in .*; did you mean 'MSIMUT'\?")
    fails(('MSS',), 'expected two names or more, each once, got MSS')
    fails(('MSS', 'MSS'), 'each once')
    assert left_in(tmp_path) == ['source']
    report = convert_tiles(
        source, tmp_path / 'out', classes=('MSIMUT', 'MSS')
    )  # the order gives the labels
    assert report.tiles == dict(train=[16, 24], val=[4, 6])
    assert all(
        (label == 0) == name.startswith('MSIMUT/')
        for name, label in read_list(tmp_path / 'out', 'val')
    )


def test_inputs_that_are_wrong(tmp_path, source):
    with pytest.raises(FileNotFoundError, match='FOLDER: no folder .*nowhere'):
        convert_tiles(tmp_path / 'nowhere', tmp_path / 'out')
    for key, value in (('train_ratio', 0), ('train_ratio', float('nan')), ('seed', -1)):
        with pytest.raises(ValueError, match=f'--{key.replace("_", "-")}: .*{value}'):
            convert_tiles(source, tmp_path / 'out', **{key: value})
    for place in (source, source / 'MSS', source / 'new', tmp_path):
        with pytest.raises(ValueError, match='OUT: .* must lie apart from FOLDER'):
            convert_tiles(source, place, overwrite=True)
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='cannot write there'):
        convert_tiles(source, tmp_path / 'file' / 'out')
    assert left_in(tmp_path) == ['file', 'source']


def test_what_is_there_is_kept(tmp_path, source):
    out = tmp_path / 'out'
    convert_tiles(source, out)
    before = read_list(out, 'val')
    with pytest.raises(FileExistsError, match='out is there already'):
        convert_tiles(source, out)
    convert_tiles(source, out, seed=1, overwrite=True)
    assert read_list(out, 'val') != before
    assert len(list(source.rglob('*.png'))) == 50  # replacing the old link leaves what it leads to
    convert_tiles(source, out, copy=True, overwrite=True)
    with pytest.raises(ValueError, match='must lie apart'):
        convert_tiles(out / 'images', out, overwrite=True)
    (source / 'MSS' / 'cut.png').write_bytes(b'')
    with pytest.raises(ValueError, match='--strict: 1 files cannot be used'):
        convert_tiles(source, out, strict=True, overwrite=True)
    assert len(list((out / 'images').rglob('*.png'))) == 50 and left_in(tmp_path) == [
        'out',
        'source',
    ]
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'thesis.txt').write_text('text')
    with pytest.raises(FileExistsError, match='leaves it alone'):
        convert_tiles(source, mine, overwrite=True)


@pytest.mark.skipif(sys.platform != 'linux', reason='other file systems refuse such names')
def test_names_that_no_list_can_hold(tmp_path, source):
    for name in (b'two\nlines.png', b'\xff.png'):
        with open(os.fsencode(source / 'MSS') + b'/' + name, 'wb') as file:
            file.write(cv2.imencode('.png', TILE)[1])
    os.symlink('gone.png', source / 'MSS' / 'link.png')
    report = convert_tiles(source, tmp_path / 'out')
    assert report.unlistable == [
        r"'MSS/two\nlines.png'",
        r"'MSS/\udcff.png'",
    ] and report.unreadable == ['MSS/link.png']
    assert report.tiles == dict(train=[24, 16], val=[6, 4])
    report.table().encode()


def test_folders_inside_class_folders_are_named(tmp_path, source):
    add_tiles(source / 'MSS' / 'more', {code(0): 1})
    assert convert_tiles(source, tmp_path / 'out').not_read == ['MSS/more']


@pytest.mark.parametrize(
    'name, kwargs',
    [
        ('a.png', {}),
        ('a.jpg', {}),
        ('a.tif', {}),
        ('lzw.tif', dict(compression='tiff_lzw')),
        ('a.bmp', {}),
    ],
)
@pytest.mark.filterwarnings('ignore')
def test_cut_files_of_every_format(tmp_path, name, kwargs):
    path = tmp_path / name
    Image.fromarray(np.kron(TILE, np.ones((8, 8, 1), np.uint8))).save(path, **kwargs)
    whole = path.read_bytes()
    assert is_tile(path)
    for share in (0.95, 0.5, 0.1, 0):
        path.write_bytes(whole[: int(share * len(whole))])
        assert not is_tile(path), share
    path.write_bytes(b'x' * 1000)
    assert not is_tile(path)


def test_a_damaged_png(tmp_path):
    path = tmp_path / 'a.png'
    write_image(path, TILE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    assert not is_tile(path)
    write_image(path, TILE)
    path.write_bytes(path.read_bytes()[:-2])  # in the end mark, which Pillow alone overlooks
    assert not is_tile(path)
