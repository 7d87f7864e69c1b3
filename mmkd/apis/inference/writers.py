"""Predictions as files: COCO JSON, masks, CSV, drawn frames, an overlay video."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

from mmkd.datasets.converters.output import resolved
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.files import write_atomically
from mmkd.utils.images import IMAGE_SUFFIXES, write_image

from .frames import READ_SUFFIXES, Frames
from .inferencer import Predicted, label_map, run_lengths

CODECS = (('mp4v', '.mp4'), ('MJPG', '.avi'))  # the first that this OpenCV writes
# Drawn frames of images in another format, which OpenCV may read alone, are PNG.
DRAWN_SUFFIXES = (*IMAGE_SUFFIXES, '.webp')


def check_inputs_stay(out: Path, frames: Frames, names: Sequence[str], drawn: bool) -> None:
    """Raise a ConfigError if results would replace an input, or lie among those of a later run.

    Args:
        out: The folder of the results.
        frames: The inputs.
        names: The members.
        drawn: Whether drawn frames or an overlay video are written.
    """
    target = resolved(out, 'OUT')
    if frames.folder is not None:
        source = resolved(frames.folder, 'INPUT')
        if source in (target, *target.parents):
            what = 'is' if source == target else 'lies in'
            raise ConfigError(
                f'OUT: {str(out)!r} {what} the input folder {str(frames.folder)!r}; name a folder '
                'outside of it'
            )
    written = [f'{name}{suffix}' for name in names for suffix in ('.csv', '.json', '')]
    if drawn:
        written += [f'overlay{suffix}' for _, suffix in CODECS] if frames.is_video else ['frames']
    with wrong_paths():
        # By inode: also through links, and where the file system ignores case.
        inputs = {_identity(path): path for path in frames.files}
        for place in (target / name for name in written):
            for path in (place, *place.rglob('*')):
                if path.is_file() and _identity(path) in inputs:
                    raise ConfigError(
                        f'OUT: results in {str(out)!r} would replace the input '
                        f'{str(inputs[_identity(path)])!r}; name another folder'
                    )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


class ResultWriter:
    """Write one member's predictions below a folder while frames come.

    For boxes `<member>.json`, a COCO file of images and annotations with `score` and the
    categories 1, 2, ... in the order of the classes; for segmentation `<member>/<image>.png`, 0 and
    255 for two classes, labels for more; and for all tasks `<member>.csv`, a row per box, class or
    image.

    Args:
        out: The folder; it and the files are made with the first frame.
        name: The member.
        classes: Their names.
    """

    def __init__(self, out: Path, name: str, classes: Sequence[str]) -> None:
        self.out, self.name, self.classes = out, name, list(classes)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.has_boxes = False
        self.files: list[Path] = []
        self._masks: set[Path] = set()
        self._text: TextIO | None = None
        self._rows: Any = None

    def _open(self) -> None:
        path = self.out / f'{self.name}.csv'
        with wrong_paths():
            self.out.mkdir(parents=True, exist_ok=True)
            self._text = open(path, 'w', newline='', encoding='utf-8')  # noqa: SIM115
        self._rows = csv.writer(self._text)
        self.files.append(path)

    def add(self, predicted: Predicted) -> None:
        """Write the member's prediction for a frame.

        Raises:
            ConfigError: If a file or folder of the results cannot be made.
        """
        if self._text is None:
            self._open()
        sample, image = predicted.samples[self.name], predicted.frame.name
        height, width = predicted.frame.image.shape[:2]
        number = len(self.images) + 1
        self.images.append(dict(id=number, file_name=image, width=width, height=height))
        if 'pred_instances' in sample:
            self._add_boxes(sample, image, number)
        elif 'pred_sem_seg' in sample:
            self._add_mask(sample, image, number)
        else:
            self._add_labels(sample, image, number)

    def _head(self, number: int, *columns: str) -> None:
        if number == 1:
            self._rows.writerow(['image', *columns])

    def _add_boxes(self, sample: BaseDataElement, image: str, number: int) -> None:
        self.has_boxes = True
        self._head(number, 'class', 'score', 'x1', 'y1', 'x2', 'y2')
        found = sample.pred_instances
        masks = run_lengths(found.masks) if 'masks' in found else [None] * len(found)
        for box, score, label, mask in zip(
            found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), masks
        ):
            x1, y1, x2, y2 = (round(value, 2) for value in box)
            self._rows.writerow([image, self.classes[label], round(score, 5), x1, y1, x2, y2])
            size = [round(x2 - x1, 2), round(y2 - y1, 2)]
            entry = dict(
                id=len(self.annotations) + 1,
                image_id=number,
                category_id=label + 1,
                bbox=[x1, y1, *size],
                area=size[0] * size[1],
                iscrowd=0,
                score=round(score, 5),
            )
            if mask is not None:
                entry['segmentation'] = mask
            self.annotations.append(entry)

    def _add_mask(self, sample: BaseDataElement, image: str, number: int) -> None:
        self._head(number, 'class', 'pixels', 'share')
        labels = label_map(sample)
        for label, pixels in zip(*np.unique(labels, return_counts=True)):
            self._rows.writerow(
                [image, self.classes[label], int(pixels), round(float(pixels) / labels.size, 5)]
            )
        suffix = Path(image).suffix  # a frame of a video has none, but perhaps a dot in its name
        stem = image[: -len(suffix)] if suffix.lower() in READ_SUFFIXES else image
        path = self.out / self.name / f'{stem}.png'
        if path in self._masks:  # of a.png and a.jpg the second
            path = path.with_name(f'{Path(image).name}.png')
        self._masks.add(path)
        with wrong_paths():
            path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, labels * 255 if len(self.classes) <= 2 else labels)
        if number == 1:
            self.files.append(self.out / self.name)

    def _add_labels(self, sample: BaseDataElement, image: str, number: int) -> None:
        self._head(number, 'classes', *(f'score: {name}' for name in self.classes))
        chosen = '; '.join(self.classes[label] for label in sample.pred_label.tolist())
        scores = [round(score, 5) for score in sample.pred_score.tolist()]
        self._rows.writerow([image, chosen, *scores])

    def close(self) -> list[Path]:
        """Finish the files; return them, none if there was no frame."""
        if self._text is not None:
            self._text.close()
        if self.has_boxes:
            categories = [dict(id=i, name=name) for i, name in enumerate(self.classes, start=1)]
            content = dict(images=self.images, annotations=self.annotations, categories=categories)
            path = self.out / f'{self.name}.json'
            text = json.dumps(content)
            write_atomically(path, lambda temporary: Path(temporary).write_text(text))
            self.files.append(path)
        return self.files


class FrameWriter:
    """Write drawn frames: images as `frames/<name>`, those of a video as one overlay video.

    Of an image in a format that is only read, or without a suffix, it is `frames/<name>.png`.

    Args:
        out: The folder.
        fps: Frames a second of the video; None for images.
    """

    def __init__(self, out: Path, fps: float | None) -> None:
        self.out, self.fps = out, fps
        self.file: Path | None = None
        self._video: cv2.VideoWriter | None = None

    def add(self, predicted: Predicted, drawn: np.ndarray) -> None:
        """Write a drawn frame (H, W, 3), RGB."""
        image = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
        if self.fps is None:
            name = predicted.frame.name
            self.file = self.out / 'frames'
            known = Path(name).suffix.lower() in DRAWN_SUFFIXES
            path = self.file / (name if known else f'{name}.png')
            with wrong_paths():
                path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, image)
            return
        # Codecs want even sides.
        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        if self._video is None:
            self._video = self._opened(image.shape[1::-1], self.fps)
        self._video.write(image)

    def _opened(self, size: tuple[int, ...], fps: float) -> cv2.VideoWriter:
        for codec, suffix in CODECS:
            self.file = self.out / f'overlay{suffix}'
            code = cv2.VideoWriter_fourcc(*codec)  # type: ignore[attr-defined]
            video = cv2.VideoWriter(str(self.file), code, fps, size)
            if video.isOpened():
                return video
        raise ConfigError(
            f'{self.out}: this OpenCV writes videos in none of {[c for c, _ in CODECS]}'
        )

    def close(self) -> list[Path]:
        """Finish the video; return what was written."""
        if self._video is not None:
            self._video.release()
        return [] if self.file is None else [self.file]
