"""Frames of images, folders, lists, videos and cameras, one after the other."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError, message_of
from mmkd.utils.images import IMAGE_SUFFIXES, decode_image, image_problem

# What OpenCV reads beyond the formats of data sets; AVIF and GIF in its newer builds.
READ_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *('.avif', '.dib', '.gif', '.jp2', '.jpe', '.pbm', '.pgm', '.pnm', '.ppm', '.webp'),
)
VIDEO_SUFFIXES = (
    *('.3g2', '.3gp', '.asf', '.avi', '.flv', '.m2ts', '.m2v', '.m4v', '.mkv', '.mov', '.mp4'),
    *('.mpeg', '.mpg', '.mts', '.mxf', '.ogv', '.ts', '.vob', '.webm', '.wmv'),
)
# `camera:0`, or the address of a stream, e.g. `camera:rtsp://10.0.0.7/live`.
CAMERA = re.compile(r'camera:(\d+|[a-z]+://\S+)')
# FFmpeg would print around the one message; it reads this before its first video.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
# A path, a camera, a BGR image (H, W, 3), or several of them.
Source: TypeAlias = 'str | Path | np.ndarray | Sequence[str | Path | np.ndarray]'


@dataclass
class Frame:
    """One image to predict on.

    Args:
        name: Path of the image below the folder that was named, or `<video>_<number>`; no two
            frames of one input have the same.
        image: BGR, uint8 (H, W, 3).
        path: The image's file, None for frames of videos and cameras and for arrays.
    """

    name: str
    image: np.ndarray
    path: Path | None = None


class Frames:
    """The frames of an input, read while they are gone through; each time from the first on.

    Args:
        source: Path of an image, a folder, a text file with a path per line, or a video;
            `camera:0` or `camera:ADDRESS` of a stream (rtsp, http, ...); a BGR image as an array;
            or a list of images. A file under an unknown suffix is an image if it begins as one,
            and else a video.
        limit: The most frames to give. Default: all; a camera's until it is stopped by Ctrl-C.

    Attributes:
        folder: The folder that was named, None for other inputs.
        files: The files that are read: images, a video, a list.
        total: How many frames there are, None if that is not known (cameras, some videos).
        fps: Frames a second of a video or camera, None for images.

    Raises:
        ConfigError: For what is not there or cannot be read. Single images of several that cannot
            be read are left out with a warning.
    """

    def __init__(self, source: Source, limit: int | None = None) -> None:
        if limit is not None:
            check_integer(limit, 'limit')
        self.limit = limit
        self.fps: float | None = None
        self.total: int | None = None
        self.video: str | int | None = None
        self.live = False
        self.stem = ''
        self.folder: Path | None = None
        self.files: list[Path] = []
        self.images: list[tuple[str, Path | np.ndarray]] = []
        if isinstance(source, np.ndarray):
            self.images = [('image.png', source)]
        elif isinstance(source, list | tuple):
            self.images = _of_list(source)
        elif isinstance(source, str | Path) and str(source):  # '' would be the working folder
            self._open(str(source))
        else:
            raise ConfigError(
                f'INPUT: expected a path, a camera, a BGR image or a list of images, got {source!r}'
            )
        self.files += [item for _, item in self.images if isinstance(item, Path)]
        if self.images:
            self.total = len(self.images)
        if limit is not None:
            self.total = limit if self.total is None else min(limit, self.total)

    def _open(self, source: str) -> None:
        camera, path = CAMERA.fullmatch(source), Path(source)
        if camera:
            name = camera.group(1)
            self.live = True
            self.video, self.stem = (
                (int(name), f'camera{name}') if name.isdigit() else (name, 'camera')
            )
        elif path.is_dir():
            self.folder, self.images = path, _of_folder(path)
            return
        elif not path.is_file():
            raise ConfigError(_missing(source))
        elif path.suffix.lower() == '.txt':
            self.files, self.images = [path], _of_text(path)
            return
        elif _is_image(path):
            self.images = [(path.name, path)]
            return
        else:
            self.video, self.stem, self.files = source, path.stem, [path]
        # Opened again for the frames: while the model is loaded a camera's pictures would pile up.
        with _capture(self.video, self.live) as video:
            fps, count = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
        # Some containers and most cameras do not know; 25 makes an overlay that can be looked at.
        self.fps = float(fps) if np.isfinite(fps) and 1 <= fps <= 1000 else 25.0
        self.total = int(count) if not self.live and 0 < count < 1e9 else None

    @property
    def is_video(self) -> bool:
        """Whether the frames follow each other in time."""
        return self.video is not None

    def __iter__(self) -> Iterator[Frame]:
        frames = self._of_images() if self.video is None else self._of_video(self.video)
        for count, frame in enumerate(frames, start=1):
            yield frame
            if count == self.limit:
                return

    def _of_images(self) -> Iterator[Frame]:
        read = 0
        path: Path | None
        for name, item in self.images:
            if isinstance(item, np.ndarray):
                image, path = _checked(item), None
            else:
                path = item
                found, problem = _decoded(path)
                if found is None:
                    if len(self.images) == 1:
                        raise ConfigError(f'INPUT: {path} {problem}')
                    warnings.warn(f'left out: {path} {problem}')
                    continue
                image = found
            read += 1
            yield Frame(name, image, path)
        if not read:
            raise ConfigError(f'INPUT: none of {len(self.images)} images can be read')

    def _of_video(self, source: str | int) -> Iterator[Frame]:
        number = 0
        with _capture(source, self.live) as video:
            while True:
                ok, image = video.read()
                if not ok:
                    break
                yield Frame(f'{self.stem}_{number:06d}', image)
                number += 1
        if self.live:
            warnings.warn(f'the camera gave no more pictures after {number}')
        elif self.total is not None and number < self.total:
            warnings.warn(
                f'{source}: the file says {self.total} frames, {number} could be read: it may be '
                'cut off'
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what OpenCV prints of a file it cannot read away from the one message."""
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        yield
    finally:
        cv2.setLogLevel(level)


@contextmanager
def _capture(source: str | int, live: bool) -> Iterator[cv2.VideoCapture]:
    """Open a video or camera and see to it that a first frame comes."""
    with _quiet():
        video = cv2.VideoCapture(source)
        if not video.isOpened() or not video.grab():
            raise ConfigError(_unreadable(source, live, video))
        if not live:  # from the first frame on
            video.release()
            video = cv2.VideoCapture(source)
    try:
        yield video
    finally:
        video.release()


def _unreadable(source: str | int, live: bool, video: cv2.VideoCapture) -> str:
    if live:
        return f"INPUT: 'camera:{source}': there is no camera {source}, or it gives no picture"
    if Path(str(source)).suffix.lower() not in VIDEO_SUFFIXES:
        return (
            f'INPUT: {source}: no image or video that OpenCV can read (images: '
            f'{", ".join(READ_SUFFIXES)}; videos: {", ".join(VIDEO_SUFFIXES)}; a list of images is '
            'a .txt with a path per line)'
        )
    codec = int(video.get(cv2.CAP_PROP_FOURCC)) if video.isOpened() else 0
    named = codec.to_bytes(4, 'little').decode('ascii', 'replace').strip('\0 ') if codec else ''
    return (
        f'INPUT: {source}: this OpenCV cannot read the video'
        f'{f" (codec {named!r})" if named else ""}: it is damaged, or in a codec that OpenCV was '
        'built without; `ffmpeg -i IN -c:v mjpeg -q:v 2 OUT.avi` makes one that it reads'
    )


def _missing(source: str) -> str:
    if source.split(':')[0] == 'camera':
        return (
            f'INPUT: {source!r}: a camera is named camera:NUMBER, e.g. camera:0 for the first '
            'device, or camera:ADDRESS, e.g. camera:rtsp://10.0.0.7/live'
        )
    hint = ''
    if source.isdigit() or '://' in source:
        hint = f" (a camera is named 'camera:{source}')"
    return f'INPUT: no image, folder, list or video {source!r}{hint}'


def _is_image(path: Path) -> bool:
    """Return whether a file is to be read as an image, by its suffix or by how it begins."""
    suffix = path.suffix.lower()
    if suffix in READ_SUFFIXES or suffix in VIDEO_SUFFIXES:
        return suffix in READ_SUFFIXES
    with _quiet():
        return cv2.haveImageReader(str(path))


def _decoded(path: Path) -> tuple[np.ndarray | None, str]:
    """Return an image, or None and the rest of a sentence that begins with the file's path."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, f'cannot be read: {error.strerror}'
    problem = image_problem(data)
    if problem:
        return None, problem
    with _quiet():
        return decode_image(data), 'is no image that OpenCV can read'


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ConfigError(
            f'INPUT: expected BGR images, uint8 (H, W, 3), got {image.dtype} {image.shape}'
        )
    return image


def _of_folder(folder: Path) -> list[tuple[str, Path | np.ndarray]]:
    walk = os.walk(folder, onerror=_tell_unreadable)
    found = (Path(place) / name for place, _, names in walk for name in names)
    files = sorted(p for p in found if p.suffix.lower() in READ_SUFFIXES and p.is_file())
    if not files:
        videos = [p.name for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES]
        hint = f'; there are videos, name one of them: {sorted(videos)[:3]}' if videos else ''
        raise ConfigError(
            f'INPUT: {folder}: a folder without images ({", ".join(READ_SUFFIXES)}){hint}'
        )
    return [(path.relative_to(folder).as_posix(), path) for path in files]


def _tell_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # gone since its parent was read
        warnings.warn(f'left out: {message_of(error)}', stacklevel=2)


def _of_text(file: Path) -> list[tuple[str, Path | np.ndarray]]:
    """Read a list of images, with paths from the list's folder or from the working folder."""
    try:
        lines = file.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f'INPUT: {file}: no text in UTF-8: {error}') from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ConfigError(f'INPUT: {file}: a list without paths')
    return _of_list([p if (p := file.parent / name).is_file() else name for name in names])


def _of_list(items: Sequence[str | Path | np.ndarray]) -> list[tuple[str, Path | np.ndarray]]:
    """Name the images of a list by their file names, numbered where two are alike."""
    if not items:
        raise ConfigError('INPUT: an empty list')
    found: dict[str, Path | np.ndarray] = {}
    for number, item in enumerate(items):
        if not isinstance(item, np.ndarray):
            item = _entry(item, number + 1)
        name = Path(item.name if isinstance(item, Path) else f'image_{number:06d}.png')
        unique, copy = name.name, 1
        while unique in found:
            copy += 1
            unique = f'{name.stem}_{copy}{name.suffix}'
        found[unique] = item
    return list(found.items())


def _entry(item: str | Path, number: int) -> Path:
    """Return the path of a list's entry if there may be an image."""
    if not isinstance(item, str | Path):
        raise ConfigError(
            f'INPUT: expected a path or a BGR image, got {item!r} (entry {number} of the list)'
        )
    path, what = Path(item), ''
    if CAMERA.fullmatch(str(item)):
        what = 'a camera'
    elif path.is_dir():
        what = 'a folder'
    elif not path.is_file():
        raise ConfigError(f'INPUT: no image: {str(item)!r} (entry {number} of the list)')
    elif path.suffix.lower() == '.txt':
        what = 'a list'
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        what = 'a video'
    if what:
        raise ConfigError(
            f'INPUT: {what} in a list: {str(item)!r} (entry {number} of the list); {what} is '
            'named alone'
        )
    return path
