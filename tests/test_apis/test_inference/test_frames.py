"""Inputs of the inferencer: images, folders, lists, videos, cameras."""

import shutil

import camera
import cv2
import numpy as np
import pytest

from mmkd.apis.inference.frames import Frames
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import write_image

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
    (folder / 'list.txt').write_text('sub/a.png\n\nb.png\n')
    frames = Frames(folder / 'list.txt', limit=1)
    assert frames.total == 1 and not frames.is_video
    (frame,) = frames
    assert frame.path == folder / 'sub/a.png' and (frame.image == IMAGE).all()
    assert names(IMAGE) == ['image.png']


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
        (lambda d: (d / 'l.txt').write_text('\n'), 'l.txt', 'a list without paths'),
        (lambda d: (d / 'l.txt').write_text('a.png'), 'l.txt', "no image: 'a.png' .entry 1"),
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
