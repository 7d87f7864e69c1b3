"""Inputs of the inferencer: images, folders, lists, videos, cameras."""

import errno
import os
import shutil

import camera
import cv2
import numpy as np
import pytest

from mmkd.apis.inference.frames import Frames
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import write_image

BROKEN_GIF = b'GIF89a' + bytes(50)  # of which OpenCV prints a line of its own
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ('b.png', 'a.png', 'sub/a.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, IMAGE)
    (tmp_path / 'notes.md').write_text('no image')
    return tmp_path


def write_video(path, frames=5, codec='MJPG'):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (32, 24))
    for i in range(frames):
        video.write(np.full((24, 32, 3), 40 * i % 256, np.uint8))
    video.release()
    return path


def names(source, **options):
    return [frame.name for frame in Frames(source, **options)]


def test_images_folders_and_lists(folder):
    assert names(folder) == ['a.png', 'b.png', 'sub/a.png']
    assert names(str(folder / 'a.png')) == ['a.png']
    listed = [folder / 'sub/a.png', str(folder / 'a.png'), IMAGE]
    assert names(listed) == ['a.png', 'a_2.png', 'image_000002.png']
    # Editors of Windows begin a file with a mark.
    (folder / 'list.txt').write_text('sub/a.png\n\nb.png\n', encoding='utf-8-sig')
    frames = Frames(folder / 'list.txt', limit=1)
    assert frames.total == 1 and not frames.is_video
    (frame,) = frames
    assert frame.path == folder / 'sub/a.png' and (frame.image == IMAGE).all()
    assert names(IMAGE) == ['image.png']


def test_a_folder_that_vanishes_while_it_is_read(folder, monkeypatch):
    scan = os.scandir

    def vanishing(place):
        if os.path.basename(str(place)) == 'sub' and os.path.isdir(place):
            shutil.rmtree(place)
        return scan(place)

    monkeypatch.setattr(os, 'scandir', vanishing)
    assert names(folder) == ['a.png', 'b.png']


def test_a_folder_that_cannot_be_read_is_left_out_with_a_warning(folder, monkeypatch):
    scan = os.scandir

    def failing(place):
        if os.path.basename(str(place)) == 'sub':
            raise OSError(errno.ESTALE, 'Stale file handle', str(place))
        return scan(place)

    monkeypatch.setattr(os, 'scandir', failing)
    with pytest.warns(UserWarning, match=r'left out: .*sub: Stale file handle'):
        assert names(folder) == ['a.png', 'b.png']


def test_an_image_that_cannot_be_read_is_left_out_with_a_warning(folder):
    (folder / 'b.png').write_bytes((folder / 'b.png').read_bytes()[:100])
    with pytest.warns(UserWarning, match=r'left out: .*b.png is cut off'):
        assert names(folder) == ['a.png', 'sub/a.png']
    with pytest.raises(ConfigError, match=r'b.png is cut off'):
        names(folder / 'b.png')


def test_videos_are_read_frame_by_frame_and_again(tmp_path):
    frames = Frames(write_video(tmp_path / 'v.avi'))
    assert (frames.total, frames.fps, frames.is_video) == (5, 10, True)
    for _ in range(2):
        found = list(frames)
        assert [frame.name for frame in found] == [f'v_{i:06d}' for i in range(5)]
        assert [round(frame.image.mean() / 40) for frame in found] == [0, 1, 2, 3, 4]
    assert names(tmp_path / 'v.avi', limit=2) == ['v_000000', 'v_000001']


@pytest.mark.parametrize(
    'make, source, expected',
    [
        (None, 'camera:97', "'camera:97': there is no camera 97"),
        (None, 'camera:http://127.0.0.1:1/', 'there is no camera http://127.0.0.1:1/, or it gives'),
        (None, 'rtsp://127.0.0.1:1/', "a camera is named 'camera:rtsp://127.0.0.1:1/'"),
        (None, 'nowhere', "no image, folder, list or video '.*nowhere'$"),
        (None, '0', "a camera is named 'camera:0'"),
        (None, 'camera:/dev/video0', "'camera:/dev/video0': a camera is named camera:NUMBER"),
        (None, 'camera:-1', "'camera:-1': a camera is named camera:NUMBER"),
        (None, 'camera', "'camera': a camera is named camera:NUMBER"),
        (lambda d: (d / 'empty').mkdir(), 'empty', 'a folder without images'),
        (
            lambda d: write_video((d / 'v').mkdir() or d / 'v/v.avi'),
            'v',
            r"a folder without images .* there are videos, name one of them: \['v.avi'\]",
        ),
        (
            lambda d: (d / 'x.mp4').write_bytes(b'no video' * 99),
            'x.mp4',
            'x.mp4: this OpenCV cannot read the video: it is damaged, or in a codec',
        ),
        (
            lambda d: (d / 'x.csv').write_text('a.png\n'),
            'x.csv',
            r'x.csv: no image or video that OpenCV can read .images: .jpg, .*; videos: .*'
            r'; a list of images is a .txt with a path per line',
        ),
        (lambda d: (d / 'x.gif').write_bytes(BROKEN_GIF), 'x.gif', 'x.gif is no image that OpenCV'),
        (lambda d: (d / 'x.png').write_bytes(b'no image'), 'x.png', 'x.png is no image that'),
        (lambda d: (d / 'l.txt').write_text('\n'), 'l.txt', 'a list without paths'),
        (lambda d: (d / 'l.txt').write_text('a.png'), 'l.txt', "no image: 'a.png' .entry 1"),
        (
            lambda d: (d / 'l.txt').write_text('..'),
            'l.txt',
            'a folder in a list: .* is named alone',
        ),
    ],
)
def test_what_cannot_be_read_is_told_in_one_message(tmp_path, capfd, make, source, expected):
    if make is not None:
        make(tmp_path)
    if ':' not in source and ('.' in source or make is not None):
        source = str(tmp_path / source)
    with pytest.raises(ConfigError, match=expected):
        list(Frames(source))
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize(
    'suffix', ['.webp', '.WEBP', '.avif', '.gif', '.jpe', '.dib', '.ppm', '.pgm', '.pnm']
)
def test_a_folder_gives_all_kinds_of_images(tmp_path, suffix):
    if not cv2.haveImageWriter(f'x{suffix.lower()}'):
        pytest.skip('a format that this OpenCV was built without')
    encoded = cv2.imencode(suffix.lower(), IMAGE[..., 0] if suffix == '.pgm' else IMAGE)[1]
    encoded.tofile(tmp_path / f'a{suffix}')
    write_image(tmp_path / 'b.png', IMAGE)
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'link.png').symlink_to('nowhere')
    found = list(Frames(tmp_path))
    assert [frame.name for frame in found] == [f'a{suffix}', 'b.png']
    assert found[0].image.shape == IMAGE.shape


@pytest.mark.parametrize('name', ['v.mts', 'v.3gp', 'v.flv', 'v.unknown', 'v'])
def test_videos_under_other_suffixes_and_none(tmp_path, name):
    write_video(tmp_path / 'v.avi').rename(tmp_path / name)
    frames = Frames(tmp_path / name)
    assert frames.is_video and len(list(frames)) == 5


def test_an_image_under_an_unknown_suffix(tmp_path):
    write_image(tmp_path / 'a.png', IMAGE)
    for name in ('a', 'a.data'):
        (tmp_path / 'a.png').rename(tmp_path / name)
        assert names(tmp_path / name) == [name]
        (tmp_path / name).rename(tmp_path / 'a.png')


@pytest.mark.parametrize('limit', [0, -3, 1.5, True])
def test_a_wrong_limit(folder, limit):
    with pytest.raises(ConfigError, match=f'limit: expected an integer >= 1, got {limit}'):
        Frames(folder, limit)


@pytest.mark.parametrize('source', [None, 5, [['a.png']], [None], {}])
def test_inputs_of_other_types(source):
    with pytest.raises(ConfigError, match='INPUT: expected .*, got '):
        Frames(source)


@pytest.mark.parametrize(
    'entry, what',
    [
        ('sub', 'a folder in a list'),
        ('v.avi', 'a video in a list'),
        ('l.txt', 'a list in a list'),
        ('camera:0', 'a camera in a list'),
    ],
)
def test_what_is_no_image_is_named_alone(folder, entry, what):
    write_video(folder / 'v.avi')
    (folder / 'l.txt').write_text('a.png')
    entry = entry if ':' in entry else str(folder / entry)
    with pytest.raises(ConfigError, match=rf"{what}: '.*' .entry 2 of the list.; .* named alone"):
        Frames([folder / 'a.png', entry])


def test_a_video_that_is_cut_off(tmp_path):
    whole = write_video(tmp_path / 'v.avi', frames=40)
    data = whole.read_bytes()
    (tmp_path / 'cut.avi').write_bytes(data[: len(data) // 2])
    frames = Frames(tmp_path / 'cut.avi')
    with pytest.warns(UserWarning, match='the file says 40 frames'):
        assert 0 < len(list(frames)) < 40


def test_a_camera_is_read_until_it_gives_no_more():
    images = [np.full((24, 32, 3), 40 * i, np.uint8) for i in range(5)]
    with camera.stream(images) as (address, _):
        frames = Frames(f'camera:{address}')
        assert (frames.total, frames.is_video) == (None, True) and 1 <= frames.fps <= 1000
        with pytest.warns(UserWarning, match='the camera gave no more pictures after 4'):
            found = list(frames)
        assert [frame.name for frame in found] == [f'camera_{i:06d}' for i in range(4)]
        # The first one showed that there is a camera.
        assert [round(frame.image.mean() / 40) for frame in found] == [1, 2, 3, 4]
        assert names(f'camera:{address}', limit=2) == ['camera_000000', 'camera_000001']


def test_the_order_does_not_depend_on_the_file_system(folder):
    shutil.move(folder / 'a.png', folder / 'c.png')
    write_image(folder / 'a.png', IMAGE)
    assert names(folder) == ['a.png', 'b.png', 'c.png', 'sub/a.png']


def test_an_empty_path_is_not_the_working_folder():
    with pytest.raises(ConfigError, match="INPUT: expected a path, .*, got ''"):
        Frames('')
