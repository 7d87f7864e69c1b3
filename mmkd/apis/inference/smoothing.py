"""Boxes of a video that do not flicker: those that several of the last frames have."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError


@dataclass
class _Track:
    box: Tensor
    label: int
    seen: deque[bool]


class BoxSmoothing:
    """Keep a frame's box only if `k` of the last `n` frames have it, this one included.

    mmkd's choice of a causal rule: a box is the last frame's if both are of one class and overlap
    by more than `iou_thr`, the best score first; an object may be missed for up to n - k frames.
    Boxes are left out, never invented or moved, so that a true box comes k - 1 frames late and a
    flash of fewer than k frames never.

    Args:
        k: In how many frames.
        n: Of how many.
        iou_thr: Default: 0.3, since an endoscope moves fast.
    """

    def __init__(self, k: int, n: int, iou_thr: float = 0.3) -> None:
        if not (type(k) is int and type(n) is int and 1 <= k <= n):
            raise ConfigError(f'smooth: expected two integers 1 <= k <= n, got {k!r} and {n!r}')
        check_number(iou_thr, 'smooth: iou_thr', most=1)
        self.k, self.n, self.iou_thr = k, n, iou_thr
        self.tracks: list[_Track] = []

    def __call__(self, instances: InstanceData) -> InstanceData:
        """Return the boxes of the next frame that stay.

        Args:
            instances: bboxes (M, 4), scores (M,), labels (M,) of one frame, those below the
                threshold left out.
        """
        from mmdet.structures.bbox import bbox_overlaps

        keep = torch.zeros(len(instances), dtype=torch.bool)
        free = list(self.tracks)
        for index in instances.scores.argsort(descending=True).tolist():
            box, label = instances.bboxes[index].cpu(), int(instances.labels[index])
            overlaps = [
                float(bbox_overlaps(box[None], track.box[None])) if track.label == label else -1.0
                for track in free
            ]
            best = max(range(len(free)), key=overlaps.__getitem__, default=None)
            if best is not None and overlaps[best] > self.iou_thr:
                track = free.pop(best)
                track.box = box
            else:
                track = _Track(box, label, deque(maxlen=self.n))
                self.tracks.append(track)
            track.seen.append(True)
            keep[index] = sum(track.seen) >= self.k
        for track in free:
            track.seen.append(False)
        self.tracks = [track for track in self.tracks if any(track.seen)]
        return instances[keep.to(instances.bboxes.device)]
