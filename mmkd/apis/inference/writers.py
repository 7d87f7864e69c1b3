"""Predictions as files: COCO JSON, masks, CSV, drawn frames, an overlay video."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.files import write_atomically
from mmkd.utils.images import write_image

from .inferencer import Predicted, label_map, run_lengths

CODECS = (('mp4v', '.mp4'), ('MJPG', '.avi'))  # the first that this OpenCV writes


class ResultWriter:
    """Write one member's predictions below a folder while frames come.

    For boxes `<member>.json`, a COCO file of images and annotations with `score` and the
    categories 1, 2, ... in the order of the classes; for segmentation `<member>/<image>.png`, 0 and
    255 for two classes, labels for more; and for all tasks `<member>.csv`, a row per box, class or
    image.

    Args:
        out: The folder.
        name: The member.
        classes: Their names.
    """

    def __init__(self, out: Path, name: str, classes: Sequence[str]) -> None:
        self.out, self.name, self.classes = out, name, list(classes)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.has_boxes = False
        self._masks: set[Path] = set()
        self.files = [out / f'{name}.csv']
        with wrong_paths():
            self._text = open(self.files[0], 'w', newline='', encoding='utf-8')  # noqa: SIM115
        self._rows = csv.writer(self._text)

    def add(self, predicted: Predicted) -> None:
        """Write the member's prediction for a frame."""
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
        path = self.out / self.name / f'{image.rpartition(".")[0] or image}.png'
        if path in self._masks:  # of a.png and a.jpg the second
            path = path.with_name(f'{Path(image).name}.png')
        self._masks.add(path)
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
        """Finish the files; return them."""
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
            path = self.file / (name if Path(name).suffix else f'{name}.png')
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
