import json
import time

import numpy as np
import pytest

from mmkd.datasets.converters import synthetic
from mmkd.datasets.converters.masks import components
from mmkd.datasets.converters.synthetic import render_frame, write_synthetic_polyps
from mmkd.utils.images import read_image


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_a_frame_depends_on_seed_and_index_alone():
    frame = render_frame(3, 5, 96)
    np.random.seed(1)
    render_frame(3, 4, 96)
    again = render_frame(3, 5, 96)
    assert np.array_equal(frame.image, again.image) and np.array_equal(frame.boxes, again.boxes)
    assert frame.image.shape == (96, 96, 3) and frame.image.dtype == frame.mask.dtype == np.uint8
    for other in (render_frame(3, 6, 96), render_frame(4, 5, 96)):
        assert not np.array_equal(frame.image, other.image)


def test_boxes_masks_and_labels_agree():
    frames = [render_frame(0, i, 64) for i in range(150)]
    for frame in frames:
        tight = sorted([x, y, x + w, y + h] for x, y, w, h, *_ in components(frame.mask, 0)[0])
        assert sorted(frame.boxes.astype(int).tolist()) == tight
        assert frame.label == int(frame.mask.any()) == int(len(frame.boxes) > 0)
    counts = np.bincount([len(frame.boxes) for frame in frames], minlength=4)
    assert len(counts) == 4 and counts.argmax() == 1 and 0.08 < counts[0] / 150 < 0.25


def test_frames_are_fast():
    start = time.process_time()
    for i in range(20):
        render_frame(1, i, 160)
    assert (time.process_time() - start) / 20 * 480 < 20  # seconds for 480 frames


def test_the_set_is_whole_and_written_once(tmp_path):
    out = tmp_path / 'set'
    assert write_synthetic_polyps(out, train=5, val=3, size=48, seed=2)
    first = contents(out)
    for split, count in (('train', 5), ('val', 3)):
        content = json.loads(first[f'annotations/{split}.json'])
        lines = [line.split() for line in first[f'labels/{split}.txt'].decode().splitlines()]
        assert len(lines) == count
        assert [image['file_name'] for image in content['images']] == [name for name, _ in lines]
        for image, (name, label) in zip(content['images'], lines):
            mask = read_image(out / 'masks' / split / name, -1)
            boxes = [a for a in content['annotations'] if a['image_id'] == image['id']]
            assert (
                sum(a['area'] for a in boxes) == mask.sum()
                and mask.max() <= 1
                and int(label) == int(len(boxes) > 0)
            )
            assert read_image(out / 'images' / split / name).shape == (48, 48, 3)
    assert not write_synthetic_polyps(out, train=5, val=3, size=48, seed=2)
    with pytest.raises(FileExistsError, match="'size': 48.*'size': 64.*--overwrite"):
        write_synthetic_polyps(out, train=5, val=3, size=64, seed=2)
    assert contents(out) == first
    assert write_synthetic_polyps(out, train=2, val=1, size=64, seed=2, overwrite=True)
    assert len(list((out / 'images' / 'train').iterdir())) == 2
    assert write_synthetic_polyps(tmp_path / 'again', train=5, val=3, size=48, seed=2)
    assert contents(tmp_path / 'again') == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ['again', 'set']


def test_a_stop_leaves_nothing(tmp_path, monkeypatch):
    def stop(seed, index, size):
        if index == 2:
            raise KeyboardInterrupt
        return render_frame(seed, index, size)

    monkeypatch.setattr(synthetic, 'render_frame', stop)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic_polyps(tmp_path / 'set', train=5, val=3, size=48)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('wrong', [dict(size=16), dict(seed=-1), dict(train=0), dict(val=0)])
def test_arguments_that_make_no_set(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        write_synthetic_polyps(tmp_path / 'set', **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    for overwrite in (False, True):
        with pytest.raises(
            FileExistsError,
            match='is there already' if not overwrite else 'was not made by a converter',
        ):
            write_synthetic_polyps(tmp_path, train=1, val=1, size=32, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']
