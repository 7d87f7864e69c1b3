from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from .masks import MaskMaker, as_bitmaps, full_size, image_size
from .own_loss import check_takes_truth, of_images, sum_of_losses


class Candidates(NamedTuple):
    """What a detector sees in one image, before a threshold and NMS.

    Attributes:
        boxes: (P, 4), xyxy in pixels of the network's input.
        scores: Probability of each class (P, C).
    """

    boxes: Tensor
    scores: Tensor


class DetectorPrediction(ABC):
    """What the `prediction` tap reads of a detector, of whatever family.

    Two predictions are compared in the finest form that both have: at common positions (`aligned`),
    or by the source's boxes as a second truth for the target (`candidates`, `own_loss`).
    """

    @cached_property
    def truths(self) -> dict[Any, list[InstanceData]]:
        """The boxes it is sure of, by what makes a truth of them: links of a step share them."""
        return {}

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes C, without background."""

    @property
    @abstractmethod
    def requires_grad(self) -> bool:
        """Whether a gradient flows from it."""

    @property
    def has_masks(self) -> bool:
        """Whether it makes masks, and its own loss takes them."""
        return False

    @abstractmethod
    def detach(self) -> DetectorPrediction:
        """Cut out of the graph, for a source: what is computed of it later has no gradient."""

    @abstractmethod
    def of_classes(self, classes: Sequence[int]) -> DetectorPrediction:
        """Return what it says of these classes, in this order."""

    @abstractmethod
    def aligned(
        self,
        source: DetectorPrediction,
        image_metas: Sequence[dict[str, Any]],
        queries: str = 'matched',
    ) -> list[tuple[DensePrediction, DensePrediction]]:
        """Bring itself, the target, and the source to common positions.

        Args:
            source: Another member's, with as many classes.
            image_metas: What is known of each image.
            queries: Of two transformers: `matched` or `aligned`.

        Returns:
            Pairs (target's, source's), each on one grid; none where the two have no common ground.
        """

    @abstractmethod
    def candidates(self, image_metas: Sequence[dict[str, Any]]) -> list[Candidates]:
        """Return what it sees in each image."""

    def truth_masks(
        self, found: Sequence[InstanceData], image_metas: Sequence[dict[str, Any]]
    ) -> list[Tensor]:
        """Return the masks (M, H, W) of candidates, one per image, of the size of the batch.

        Args:
            found: Of each image bboxes, labels and the `index` among its candidates.
            image_metas: What is known of each image.
        """
        raise NotImplementedError

    @abstractmethod
    def check_own_loss(self) -> None:
        """Raise a ConfigError if the network's own loss cannot be computed for a second truth."""

    @abstractmethod
    def own_loss(
        self,
        truth: Sequence[InstanceData],
        image_metas: Sequence[dict[str, Any]],
        images: Sequence[int],
    ) -> Tensor:
        """Return the sum of the network's own loss terms for another truth, in the same forward.

        Args:
            truth: Boxes and labels, one per image of `images`; where it has masks (M, H, W) of the
                size of the batch, the masks' losses count, too.
            image_metas: What is known of each image of the batch.
            images: Indices of the images that count.
        """


@dataclass
class DensePrediction(DetectorPrediction):
    """A dense detector's output at every position of its levels, joined to one grid of P positions.

    The one form in which all dense heads are compared. A position is a cell of a level, or one of
    the anchors of a cell; the order is level, row, column, anchor.

    Args:
        cls_logits: Log-odds of each class (N, P, C), without background: the logits of a sigmoid
            head; log p - log(1 - p) of a softmax head.
        obj_logits: Log-odds (N, P) of a factor of the score that all classes share (objectness,
            centerness); None for heads without.
        boxes: Decoded boxes (N, P, 4), xyxy in pixels of the network's input.
        head: The head, for `own_loss`; the tap fills it in.
        outputs: What the head's `forward` returned, likewise.
        masks: Makes the masks at some positions; None for heads without.
        mask_stride: Pixels of the network's input that one of their cells spans.
        strides: (x, y) in pixels of each level's cells, where the head tells; the tap fills it in.
    """

    cls_logits: Tensor
    obj_logits: Tensor | None
    boxes: Tensor
    head: Any = None
    outputs: Any = None
    masks: MaskMaker | None = None
    mask_stride: float = 1.0
    strides: tuple[tuple[float, float], ...] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes C, without background."""
        return self.cls_logits.shape[-1]

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows from it."""
        return self.cls_logits.requires_grad

    @property
    def scores(self) -> Tensor:
        """Best class's probability times objectness (if any), (N, P)."""
        return self.class_scores.amax(-1)

    @property
    def class_scores(self) -> Tensor:
        """Each class's probability times objectness (if any), (N, P, C)."""
        scores = self.cls_logits.float().sigmoid()
        if self.obj_logits is None:
            return scores
        return scores * self.obj_logits.float().sigmoid().unsqueeze(-1)

    @property
    def has_masks(self) -> bool:
        """Whether the head makes masks."""
        return self.masks is not None

    def detach(self) -> DensePrediction:
        """Cut out of the graph."""
        return replace(
            self,
            cls_logits=self.cls_logits.detach(),
            obj_logits=None if self.obj_logits is None else self.obj_logits.detach(),
            boxes=self.boxes.detach(),
            head=None,
            outputs=None,
            masks=None if self.masks is None else torch.no_grad()(self.masks),
        )

    def of_classes(self, classes: Sequence[int]) -> DensePrediction:
        """Return what it says of these classes, in this order."""
        return replace(self, cls_logits=self.cls_logits[..., list(classes)])

    def aligned(
        self,
        source: DetectorPrediction,
        image_metas: Sequence[dict[str, Any]],
        queries: str = 'matched',
    ) -> list[tuple[DensePrediction, DensePrediction]]:
        """Compare position by position where both have as many, on the same levels in order."""
        if not isinstance(source, DensePrediction) or source.boxes.shape != self.boxes.shape:
            return []
        other_levels = self.strides and source.strides and self.strides != source.strides
        return [] if other_levels else [(self, source)]

    def candidates(self, image_metas: Sequence[dict[str, Any]]) -> list[Candidates]:
        """Return every position's box."""
        return [Candidates(*each) for each in zip(self.boxes, self.class_scores)]

    def truth_masks(
        self, found: Sequence[InstanceData], image_metas: Sequence[dict[str, Any]]
    ) -> list[Tensor]:
        """Return the masks at the candidates' positions."""
        assert self.masks is not None
        made = []
        for image, (instances, meta) in enumerate(zip(found, image_metas)):
            images = torch.full_like(instances.index, image)
            logits = self.masks(images, instances.index, instances.labels)
            made.append(full_size(logits, self.mask_stride, image_size(meta)))
        return made

    def check_own_loss(self) -> None:
        """Raise a ConfigError if the head does not compute its loss of its output and boxes."""
        check_takes_truth(self.head)

    def own_loss(
        self,
        truth: Sequence[InstanceData],
        image_metas: Sequence[dict[str, Any]],
        images: Sequence[int],
    ) -> Tensor:
        """Return the head's own loss for another truth, by its `loss_by_feat`."""
        metas, masks = [image_metas[i] for i in images], 'masks' in truth[0]
        if self.has_masks:
            truth = as_bitmaps(truth, metas)
        outputs = of_images(self.outputs, images, len(image_metas))
        return sum_of_losses(
            self.head.loss_by_feat(*outputs, batch_gt_instances=list(truth), batch_img_metas=metas),
            masks,
        )

    def __str__(self) -> str:
        n, p, c = self.cls_logits.shape
        objectness = 'no' if self.obj_logits is None else 'yes'
        return f'(images {n}, positions {p}, classes {c}, objectness {objectness})'
