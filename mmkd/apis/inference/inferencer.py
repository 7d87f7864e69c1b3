"""Predictions of members and of the ensemble for frames of any kind."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from rich.console import Console
from rich.progress import Progress

from mmkd.apis.loading import Trained, load_trained, test_dataset
from mmkd.utils.checks import check_integer, check_number
from mmkd.utils.errors import ConfigError, message_of
from mmkd.visualization.panels import COLORS, side_by_side, titled

from .frames import Frame, Frames, Source
from .smoothing import BoxSmoothing

Samples = dict[str, BaseDataElement]
# Steps of a test pipeline that need ground truth.
OF_TRUTH = ('LoadAnnotations', 'LoadPanopticAnnotations', 'LoadProposals')


@dataclass
class Predicted:
    """A frame with the predictions for it.

    Args:
        frame: The frame.
        samples: A data sample by member, on the CPU, at the frame's size.
    """

    frame: Frame
    samples: Samples


@dataclass
class Latency:
    """Seconds for one frame at batch 1, of many frames.

    Args:
        whole: From the decoded frame to boxes, mask or label at its size.
        network: Of the network alone (of an ensemble all its members, one after the other).
    """

    whole: list[float]
    network: list[float]

    @property
    def frames_per_second(self) -> float:
        """Of the whole."""
        return len(self.whole) / sum(self.whole)

    def percentiles(self) -> dict[str, float]:
        """Return p50 and p95 of both, in milliseconds."""
        return {
            f'{kind}_p{p}': 1000 * float(np.percentile(values, p))
            for kind, values in (('whole', self.whole), ('network', self.network))
            for p in (50, 95)
        }


class MemberInferencer(BaseInferencer):
    """Predict as OpenMMLab's inferencers do: with members, the ensemble, or a plain student.

    Only the networks that are needed are built; links are left behind.

    Args:
        model: Checkpoint of a training, or of an exported member or ensemble.
        config: Its config. Default: the one that stands beside it.
        members: What to predict with: members' names, `ensemble`. Default: the ensemble.
        device: `cpu`, `cuda`, `cuda:1`, ... Default: a GPU if there is one.
        score_thr: Boxes with a lower score are left out.
        show_progress: Whether to show a progress bar, where there is a terminal.

    Raises:
        ConfigError: If files are missing or do not fit together, or for a device that cannot be
            used.

    Examples:
        >>> inferencer = MemberInferencer('work_dirs/run/epoch_20.pth', members=['student1'])
        >>> result = inferencer('images/', batch_size=8)
        >>> result['predictions'][0]['student1']['bboxes']
    """

    def __init__(
        self,
        model: str | Path,
        config: str | Path | Config | None = None,
        members: Sequence[str] | None = None,
        device: str | None = None,
        score_thr: float = 0.3,
        show_progress: bool = True,
    ) -> None:
        check_number(score_thr, 'score_thr', most=1)
        device = device or get_device()
        check_device(device)
        self.trained: Trained = load_trained(model, config, members)
        self.names, self.metainfo = self.trained.names, self.trained.metainfo
        self.score_thr = score_thr
        cfg = self.trained.cfg
        super().__init__(cfg, None, device, cfg.get('default_scope'), show_progress)
        drawing: Any = self.trained.task.drawing
        if hasattr(drawing, 'least_score'):
            drawing.least_score = score_thr
        self._canvas: Visualizer | None = None

    def _init_model(self, cfg: Any, weights: Any, device: str = 'cpu') -> Any:
        return revert_sync_batchnorm(self.trained.model).to(device).eval()

    def _init_pipeline(self, cfg: Any) -> Compose:
        """Build the test pipeline without what loads the image and its ground truth."""
        steps = [dict(step) for step in test_dataset(cfg)['pipeline']]
        names = [str(step['type']).rpartition('.')[2] for step in steps]
        loads = [i for i, name in enumerate(names) if name == 'LoadImageFromFile']
        if not loads:
            raise ConfigError(
                f"test_dataloader.dataset.pipeline: no 'LoadImageFromFile' to give frames to, only "
                f'{", ".join(names)}'
            )
        load = steps[loads[0]]
        if load.get('color_type', 'color') not in ('color', 'color_ignore_orientation'):
            raise ConfigError(
                f'test_dataloader.dataset.pipeline: images of color_type={load["color_type"]!r} '
                'are not supported here'
            )
        self._to_float32 = bool(load.get('to_float32', False))
        kept = [
            step
            for step, name in zip(steps[loads[0] + 1 :], names[loads[0] + 1 :])
            if name not in OF_TRUTH
        ]
        return Compose(kept)

    def _init_collate(self, cfg: Any) -> Any:
        # As mmengine ends up; it would look in a registry that the toolboxes lack, and warn.
        return pseudo_collate

    def _init_visualizer(self, cfg: Any) -> None:
        return None  # the task's drawing is used, as in all pictures of mmkd

    # ---------------------------------------------------------------- running

    def __call__(
        self,
        inputs: Source | Frames,
        return_datasamples: bool = False,
        batch_size: int = 1,
        return_vis: bool = False,
        smooth: tuple[int, int] | None = None,
        limit: int | None = None,
    ) -> dict[str, Any]:
        """Predict on all frames and keep the results; `stream` gives them one after the other.

        Args:
            inputs: An image, folder, list, video or camera, see `Frames`.
            return_datasamples: Whether to return data samples in place of dicts.
            batch_size: Frames in one forward pass.
            return_vis: Whether to return the frames with the predictions drawn.
            smooth: `(k, n)`: of a video's boxes keep those that k of the last n frames have.
            limit: The most frames. Default: all.

        Returns:
            `predictions`: for each frame a dict with `name`, `size` (width, height) and by member
            `bboxes`, `labels`, `scores` (and `masks` as COCO's run lengths); or `sem_seg` (H, W);
            or `pred_label`, `pred_score`, `pred_scores`, `pred_class`. `visualization`: RGB images.

        Raises:
            ConfigError: For an input that cannot be read or an argument that cannot be meant.
        """
        if isinstance(inputs, Frames) and limit is not None:
            raise ConfigError(f'limit: Frames have their own, got {limit!r}: Frames(..., limit)')
        frames = inputs if isinstance(inputs, Frames) else Frames(inputs, limit)
        predictions, drawn = [], []
        for item in self.stream(frames, batch_size, smooth):
            predictions.append(item)
            if return_vis:
                drawn.append(self.draw(item))
        return self.postprocess(predictions, drawn, return_datasamples)

    def stream(
        self, frames: Frames, batch_size: int = 1, smooth: tuple[int, int] | None = None
    ) -> Iterator[Predicted]:
        """Predict on one frame after the other, so that a video of any length fits in memory.

        Raises:
            ConfigError: For a wrong argument, before the first frame is asked for.
        """
        check_integer(batch_size, 'batch_size')
        return self._predicted(frames, batch_size, self.smoothing(frames, smooth))

    def _predicted(
        self, frames: Frames, batch_size: int, smoothing: dict[str, BoxSmoothing]
    ) -> Iterator[Predicted]:
        for batch in self._tracked(_chunks(frames, batch_size), frames.total):
            for frame, samples in zip(batch, self.forward(self.prepared(batch))):
                for name, sample in samples.items():
                    if 'pred_instances' in sample:
                        found = sample.pred_instances
                        found = found[found.scores >= self.score_thr]
                        sample.pred_instances = smoothing[name](found) if smoothing else found
                yield Predicted(frame, samples)

    def smoothing(self, frames: Frames, smooth: tuple[int, int] | None) -> dict[str, BoxSmoothing]:
        """Return by name what smooths boxes, none without `smooth`.

        Raises:
            ConfigError: If these frames or this model cannot be smoothed, or for wrong numbers.
        """
        if smooth is None:
            return {}
        if not isinstance(smooth, list | tuple) or len(smooth) != 2:
            raise ConfigError(f'smooth: expected two integers 1 <= k <= n, got {smooth!r}')
        if not frames.is_video:
            raise ConfigError('smooth: boxes are smoothed over the frames of a video')
        if type(self.trained.task).__name__ != 'DetectionTask':
            raise ConfigError('smooth: only boxes can be smoothed')
        return {name: BoxSmoothing(*smooth) for name in self.names}

    def prepared(self, frames: Sequence[Frame]) -> dict[str, Any]:
        """Run the test pipeline on frames and collate them."""
        items = []
        for number, frame in enumerate(frames):
            image = frame.image.astype(np.float32) if self._to_float32 else frame.image
            size = image.shape[:2]
            path = str(frame.path or frame.name)
            items.append(
                self.pipeline(
                    dict(
                        img=image,
                        img_path=path,
                        img_id=number,
                        img_shape=size,
                        ori_shape=size,
                        height=size[0],
                        width=size[1],
                    )
                )
            )
        return self.collate_fn(items)

    @torch.no_grad()
    def forward(
        self, inputs: dict[str, Any] | tuple, names: Sequence[str] | None = None, **kwargs: Any
    ) -> list[Samples]:
        """Predict on a collated batch: for each frame a data sample by member, on the CPU."""
        names = names or self.names
        if self.trained.is_distiller:
            found = self.model.predict_members(inputs, names)
        else:
            found = {names[0]: self.model.test_step(inputs)}
        rows = zip(*(found[name] for name in names))
        return [{name: s.cpu() for name, s in zip(names, row)} for row in rows]

    def _tracked(self, batches: Iterator[list[Frame]], total: int | None) -> Iterator[list[Frame]]:
        console = Console(stderr=True)
        shown = self.show_progress and console.is_terminal
        with Progress(console=console, disable=not shown) as progress:
            bar = progress.add_task('frames', total=total)
            for batch in batches:
                yield batch
                progress.advance(bar, len(batch))

    # ---------------------------------------------------------------- results

    def draw(self, predicted: Predicted) -> np.ndarray:
        """Draw a frame: the one member's predictions, or several members' side by side.

        Returns:
            RGB, uint8 (H, W, 3).
        """
        drawing = self.trained.task.drawing
        if drawing is None:
            raise ConfigError(f'{type(self.trained.task).__name__} draws no pictures')
        if self._canvas is None:
            self._canvas = Visualizer()
        image = cv2.cvtColor(predicted.frame.image, cv2.COLOR_BGR2RGB)
        panels = []
        for (name, sample), color in zip(predicted.samples.items(), cycle(COLORS)):
            self._canvas.set_image(image)
            drawing.draw(self._canvas, image.shape[:2], sample, color, self.metainfo)
            drawn = self._canvas.get_image()
            panels.append(titled(drawn, name) if len(predicted.samples) > 1 else drawn)
        return panels[0] if len(panels) == 1 else side_by_side(panels)

    def visualize(
        self, inputs: Sequence[Frame], preds: Sequence[Samples], show: bool = False, **kwargs: Any
    ) -> list[np.ndarray]:
        """Draw frames with their predictions."""
        return [self.draw(Predicted(frame, samples)) for frame, samples in zip(inputs, preds)]

    def postprocess(
        self,
        preds: Sequence[Predicted],
        visualization: list[np.ndarray],
        return_datasample: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return what `__call__` says."""
        predictions = []
        for item in preds:
            height, width = item.frame.image.shape[:2]
            result: dict[str, Any] = dict(name=item.frame.name, size=(width, height))
            for name, sample in item.samples.items():
                result[name] = sample if return_datasample else as_dict(sample, self.metainfo)
            predictions.append(result)
        return dict(predictions=predictions, visualization=visualization)

    # ---------------------------------------------------------------- latency

    def latency(self, frames: Iterable[Frame], warmup: int = 3) -> dict[str, Latency]:
        """Measure each of `names` at batch 1; the first frames, which allocate, do not count.

        Decoding of files and videos, drawing and writing are not in it.
        """
        check_integer(warmup, 'warmup', 0)
        frames = list(frames)
        if not frames:
            raise ConfigError('latency: no frames to measure on')
        found = {}
        for name in self.names:
            measured = Latency([], [])
            for index, frame in enumerate([*islice(cycle(frames), warmup), *frames]):
                whole, network = self._timed(frame, name)
                if index >= warmup:
                    measured.whole.append(whole)
                    measured.network.append(network)
            found[name] = measured
        return found

    @torch.no_grad()
    def _timed(self, frame: Frame, name: str) -> tuple[float, float]:
        _wait()
        start = time.perf_counter()
        self.forward(self.prepared([frame]), [name])
        _wait()
        whole = time.perf_counter() - start
        data = self.model.data_preprocessor(self.prepared([frame]), False)
        inputs, samples = data['inputs'], data['data_samples']
        if self.trained.is_distiller:
            members = self.model.ensemble_members if name == 'ensemble' else [name]
            runs = [
                (self.model.network(n), self.model.members.inputs_of(n, inputs, samples))
                for n in members
            ]
        else:
            runs = [(self.model, inputs)]
        _wait()
        start = time.perf_counter()
        for network, images in runs:
            network(images, samples, mode='tensor')
        _wait()
        return whole, time.perf_counter() - start


def check_device(device: str) -> None:
    """Raise a ConfigError unless this torch can compute on a device and give the result back."""
    expected = 'cpu, cuda, cuda:1, ...'
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f'device: expected {expected}, got {device!r}') from error
    try:
        torch.zeros(1, device=place).cpu()
    except (AssertionError, ImportError, RuntimeError) as error:
        told = message_of(error).splitlines()[0]
        raise ConfigError(
            f'device: {device!r} cannot be used here ({told}); expected {expected}'
        ) from error


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _chunks(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    iterator = iter(frames)
    while chunk := list(islice(iterator, size)):
        yield chunk


def as_dict(sample: BaseDataElement, metainfo: dict[str, Any]) -> dict[str, Any]:
    """Return a prediction as plain values and arrays, named as the toolboxes' inferencers do."""
    if 'pred_instances' in sample:
        found = sample.pred_instances
        result = dict(
            bboxes=found.bboxes.tolist(),
            labels=found.labels.tolist(),
            scores=found.scores.tolist(),
        )
        if 'masks' in found:
            result['masks'] = run_lengths(found.masks)
        return result
    if 'pred_sem_seg' in sample:
        return dict(sem_seg=label_map(sample))
    scores, labels = sample.pred_score, sample.pred_label.tolist()
    return dict(
        pred_scores=scores.tolist(),
        pred_label=labels[0] if len(labels) == 1 else labels,
        pred_score=[float(scores[label]) for label in labels],
        pred_class=[metainfo['classes'][label] for label in labels],
    )


def label_map(sample: BaseDataElement) -> np.ndarray:
    """Return a segmenter's classes (H, W), uint8."""
    return sample.pred_sem_seg.data.squeeze(0).numpy().astype(np.uint8)


def run_lengths(masks: Any) -> list[dict[str, Any]]:
    """Return masks (M, H, W) as COCO's compressed run lengths, which JSON takes."""
    from pycocotools import mask as coder

    found = []
    for mask in np.asarray(masks):
        code = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
        found.append(
            dict(size=[int(side) for side in code['size']], counts=code['counts'].decode())
        )
    return found
