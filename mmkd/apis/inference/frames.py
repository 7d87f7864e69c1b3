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

from mmkd.utils.errors import ConfigError
from mmkd.utils.images import IMAGE_SUFFIXES, decode_image, image_problem

VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.ts', '.webm', '.wmv')
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
            or a list of images.
        limit: The most frames to give. Default: all; a camera's until it is stopped by Ctrl-C.

    Attributes:
        total: How many frames there are, None if that is not known (cameras, some videos).
        fps: Frames a second of a video or camera, None for images.

    Raises:
        ConfigError: For what is not there or cannot be read. Single images of several that cannot
            be read are left out with a warning.
    """

    def __init__(self, source: Source, limit: int | None = None) -> None:
        self.limit = limit
        self.fps: float | None = None
        self.total: int | None = None
        self.video: str | int | None = None
        self.live = False
        self.stem = ''
        self.images: list[tuple[str, Path | np.ndarray]] = []
        if isinstance(source, np.ndarray):
            self.images = [('image.png', source)]
        elif isinstance(source, list | tuple):
            self.images = _of_list(source)
        else:
            self._open(str(source))
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
            self.images = _of_folder(path)
            return
        elif not path.is_file():
            hint = ''
            if source.isdigit() or '://' in source:
                hint = f" (a camera is named 'camera:{source}')"
            raise ConfigError(f'INPUT: no image, folder, list or video {source!r}{hint}')
        elif path.suffix.lower() == '.txt':
            self.images = _of_text(path)
            return
        elif path.suffix.lower() not in VIDEO_SUFFIXES:
            self.images = [(path.name, path)]
            return
        else:
            self.video, self.stem = source, path.stem
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
                data, path = item.read_bytes(), item
                problem = image_problem(data)
                decoded = None if problem else decode_image(data)
                if decoded is None:
                    told = f'{item} {problem or "is no image that OpenCV can read"}'
                    if len(self.images) == 1:
                        raise ConfigError(f'INPUT: {told}')
                    warnings.warn(f'left out: {told}')
                    continue
                image = decoded
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
def _capture(source: str | int, live: bool) -> Iterator[cv2.VideoCapture]:
    """Open a video or camera and see to it that a first frame comes."""
    # What OpenCV prints of a file it cannot read would stand around the one message.
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        video = cv2.VideoCapture(source)
        if not video.isOpened() or not video.grab():
            raise ConfigError(_unreadable(source, live, video))
        if not live:  # from the first frame on
            video.release()
            video = cv2.VideoCapture(source)
    finally:
        cv2.setLogLevel(level)
    try:
        yield video
    finally:
        video.release()


def _unreadable(source: str | int, live: bool, video: cv2.VideoCapture) -> str:
    if live:
        return f"INPUT: 'camera:{source}': there is no camera {source}, or it gives no picture"
    codec = int(video.get(cv2.CAP_PROP_FOURCC)) if video.isOpened() else 0
    named = codec.to_bytes(4, 'little').decode('ascii', 'replace').strip('\0 ') if codec else ''
    return (
        f'INPUT: {source}: this OpenCV cannot read the video'
        f'{f" (codec {named!r})" if named else ""}: it is damaged, or in a codec that OpenCV was '
        'built without; `ffmpeg -i IN -c:v mjpeg -q:v 2 OUT.avi` makes one that it reads'
    )


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ConfigError(
            f'INPUT: expected BGR images, uint8 (H, W, 3), got {image.dtype} {image.shape}'
        )
    return image


def _of_folder(folder: Path) -> list[tuple[str, Path | np.ndarray]]:
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        videos = [p.name for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES]
        hint = f'; there are videos, name one of them: {sorted(videos)[:3]}' if videos else ''
        raise ConfigError(
            f'INPUT: {folder}: a folder without images ({", ".join(IMAGE_SUFFIXES)}){hint}'
        )
    return [(path.relative_to(folder).as_posix(), path) for path in files]


def _of_text(file: Path) -> list[tuple[str, Path | np.ndarray]]:
    """Read a list of images, with paths from the list's folder or from the working folder."""
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
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
            item = Path(item)
            if item.suffix.lower() in VIDEO_SUFFIXES or not item.is_file():
                what = 'a video in a list' if item.is_file() else 'no image'
                raise ConfigError(f'INPUT: {what}: {str(item)!r} (entry {number + 1} of the list)')
        name = Path(item.name if isinstance(item, Path) else f'image_{number:06d}.png')
        unique, copy = name.name, 1
        while unique in found:
            copy += 1
            unique = f'{name.stem}_{copy}{name.suffix}'
        found[unique] = item
    return list(found.items())
