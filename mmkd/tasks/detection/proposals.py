"""Predictions of two-stage detectors, which depend on the boxes that the second stage looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor

from mmkd.utils.buffers import run_again

from .masks import as_bitmaps, image_size
from .own_loss import sum_of_losses
from .readers import prediction_reader
from .structures import Candidates, DensePrediction, DetectorPrediction

MOST_PROPOSALS = 256  # of an image, that are compared

# Of each image class probabilities (R, C), without background, and boxes (R, C, 4).
Scored = list[tuple[Tensor, Tensor]]


@dataclass
class ProposalPrediction(DetectorPrediction):
    """A two-stage detector's features, and the network that makes boxes of them.

    Two members' second stages are compared on common ground: both score and refine the target's
    proposals, each on its own features, and draw masks in them where both do; their RPNs compare
    objectness anchor by anchor where both have the same anchors, and no boxes: of their weight nine
    tenths would lie at anchors of which the source is not sure. Proposals are as many of an image,
    the best, as the target's own second stage learns from, 256 at most (mmkd's choice).

    Args:
        features: The levels of the neck, (N, C_l, H_l, W_l).
        network: The detector.
        classes: The classes that count, in this order; None: all.
        detached: Whether nothing that is computed of it has a gradient.
        training: Mode of the network when it made the features, and in which its heads run.
    """

    features: tuple[Tensor, ...]
    network: Any
    classes: tuple[int, ...] | None = None
    detached: bool = False
    training: bool = True
    # What several links ask for in one step.
    _own: list[tuple[list[InstanceData], Scored]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def num_classes(self) -> int:
        """Number of classes C, without background."""
        return self._all_classes if self.classes is None else len(self.classes)

    @property
    def _all_classes(self) -> int:
        head = self.network.roi_head.bbox_head
        last: Any = head[-1] if isinstance(head, torch.nn.ModuleList) else head
        return last.num_classes

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows from it."""
        return not self.detached and any(level.requires_grad for level in self.features)

    @property
    def has_masks(self) -> bool:
        """Whether the second stage draws masks, of its features alone (HTC's does not)."""
        head = self.network.roi_head
        known = StandardRoIHead._mask_forward, CascadeRoIHead._mask_forward
        return head.with_mask and type(head)._mask_forward in known

    def detach(self) -> ProposalPrediction:
        """Cut out of the graph: the network's heads get no gradient either."""
        features = tuple(level.detach() for level in self.features)
        return replace(self, features=features, detached=True)

    def of_classes(self, classes: Sequence[int]) -> ProposalPrediction:
        """Return what it says of these classes, in this order."""
        return replace(self, classes=tuple(classes))

    @contextmanager
    def _running(self) -> Iterator[None]:
        with (
            torch.no_grad() if self.detached else nullcontext(),
            run_again(self.network, self.training),
        ):
            yield

    def proposals(self, image_metas: Sequence[dict[str, Any]]) -> list[InstanceData]:
        """Return the RPN's best boxes of each image, without gradient."""
        metas = list(image_metas)
        outputs = self._rpn_outputs  # kept with their graph: the RPN link learns through them
        with torch.no_grad():
            found = self.network.rpn_head.predict_by_feat(
                *outputs, batch_img_metas=metas, cfg=self.network.test_cfg.rpn
            )
        most = _sampled(self.network.train_cfg)
        # At least one, the image: ranks wait for each other's sums over proposals.
        return [
            InstanceData(bboxes=each.bboxes[:most].detach() if len(each) else _whole(each, meta))
            for each, meta in zip(found, metas)
        ]

    def own(self, image_metas: Sequence[dict[str, Any]]) -> tuple[list[InstanceData], Scored]:
        """Return its proposals and what its own second stage makes of them."""
        if not self._own:
            proposals = self.proposals(image_metas)
            self._own.append((proposals, self.score(proposals, image_metas)))
        return self._own[0]

    def score(
        self, proposals: Sequence[InstanceData], image_metas: Sequence[dict[str, Any]]
    ) -> Scored:
        """Run the second stage on proposals.

        Args:
            proposals: Of each image, bboxes (R, 4).
            image_metas: What is known of each image.
        """
        with self._running():
            # Without a test_cfg it gives all boxes and scores as they are.
            found = self.network.roi_head.predict_bbox(
                self.features, list(image_metas), list(proposals), rcnn_test_cfg=None
            )
        total, scored = self._all_classes, []
        for each in found:
            scores = each.scores.float()[:, :total]
            boxes = each.bboxes.float().reshape(len(scores), -1, 4).expand(-1, total, -1)
            if self.classes is not None:
                scores, boxes = scores[:, list(self.classes)], boxes[:, list(self.classes)]
            scored.append((scores, boxes))
        return scored

    def mask_logits(self, rois: Tensor, labels: Tensor) -> Tensor:
        """Return the logits (M, h, w) of masks in boxes.

        Args:
            rois: The image's index and the box (M, 5).
            labels: Of the classes that count (M,).
        """
        head = self.network.roi_head
        # A cascade's last stage has learned from the best boxes.
        stage = (head.num_stages - 1,) if isinstance(head, CascadeRoIHead) else ()
        with self._running():
            found = head._mask_forward(*stage, self.features, rois)['mask_preds']
        if found.shape[1] == 1:  # one for all classes
            return found[:, 0]
        if self.classes is not None:
            labels = labels.new_tensor(self.classes)[labels]
        return found[torch.arange(len(found), device=found.device), labels]

    def truth_masks(
        self, found: Sequence[InstanceData], image_metas: Sequence[dict[str, Any]]
    ) -> list[Tensor]:
        """Return the masks that the second stage draws in the boxes."""
        made = []
        for image, (each, meta) in enumerate(zip(found, image_metas)):
            size = image_size(meta)
            if not len(each):
                made.append(torch.zeros((0, *size), dtype=torch.bool, device=each.bboxes.device))
                continue
            rois = torch.cat([each.bboxes.new_full((len(each), 1), image), each.bboxes], 1)
            drawn = self.mask_logits(rois, each.labels).float().sigmoid()[:, None]
            made.append(_do_paste_mask(drawn, each.bboxes, *size, skip_empty=False)[0] >= 0.5)
        return made

    def aligned(
        self,
        source: DetectorPrediction,
        image_metas: Sequence[dict[str, Any]],
        queries: str = 'matched',
    ) -> list[tuple[DensePrediction, DensePrediction]]:
        """Let both second stages score the target's proposals; compare the RPNs, too."""
        if not isinstance(source, ProposalPrediction):
            return []
        proposals, own = self.own(image_metas)
        # All images' proposals in a row: images have different numbers of them.
        sides = [
            tuple(torch.cat(parts) for parts in zip(*scored))
            for scored in (own, source.score(proposals, image_metas))
        ]
        best = sides[1][0].argmax(1)
        rows = torch.arange(len(best), device=best.device)
        target, other = (
            DensePrediction(scores.logit(eps=1e-6)[None], None, boxes[rows, best][None])
            for scores, boxes in sides
        )
        if self.has_masks and source.has_masks:
            rois = bbox2roi([each.bboxes for each in proposals])
            target.masks, other.masks = (
                lambda images, rows, labels, of=each: of.mask_logits(rois[rows], labels)
                for each in (self, source)
            )
        pairs = [(target, other)]
        if self.classes is None:
            anchors, others = self.rpn(), source.rpn()
            if anchors is not None and others is not None:
                # An empty box teaches nothing.
                others = replace(others, boxes=torch.zeros_like(others.boxes))
                pairs += anchors.aligned(others, image_metas)
        return pairs

    def rpn(self) -> DensePrediction | None:
        """Return what the RPN says at each anchor; None for an RPN of another kind."""
        head = self.network.rpn_head
        if not isinstance(head, RPNHead):
            return None
        with self._running():
            return prediction_reader(head, self._rpn_outputs)

    @cached_property
    def _rpn_outputs(self) -> Any:
        with self._running():
            return self.network.rpn_head(self.features)

    def candidates(self, image_metas: Sequence[dict[str, Any]]) -> list[Candidates]:
        """Return what the second stage makes of its own proposals."""
        found = []
        for scores, boxes in self.own(image_metas)[1]:
            best = scores.argmax(1)
            rows = torch.arange(len(best), device=best.device)
            found.append(Candidates(boxes[rows, best], scores))
        return found

    def check_own_loss(self) -> None:
        """Every two-stage detector with an RPN has one."""

    def own_loss(
        self,
        truth: Sequence[InstanceData],
        image_metas: Sequence[dict[str, Any]],
        images: Sequence[int],
    ) -> Tensor:
        """Return the losses of both stages for another truth, of the features of this forward."""
        network, metas = self.network, [image_metas[i] for i in images]
        masks = 'masks' in truth[0]
        if network.roi_head.with_mask:
            truth = as_bitmaps(truth, metas)
        index = torch.as_tensor(list(images), device=self.features[0].device)
        features = tuple(level.index_select(0, index) for level in self.features)
        samples = [_sample(each, meta) for each, meta in zip(truth, metas)]
        objects = [_sample(each, meta, labels=0) for each, meta in zip(truth, metas)]
        with self._running():  # as `TwoStageDetector.loss` does after the features
            terms, proposals = network.rpn_head.loss_and_predict(
                features,
                objects,
                proposal_cfg=network.train_cfg.get('rpn_proposal', network.test_cfg.rpn),
            )
            second = network.roi_head.loss(features, proposals, samples)
        return sum_of_losses(terms) + sum_of_losses(second, masks)

    def __str__(self) -> str:
        sizes = ', '.join(str(tuple(level.shape)) for level in self.features)
        return f'(features {sizes}, classes {self.num_classes})'


def read_proposals(module: Any, output: Any, network: Any) -> ProposalPrediction:
    """Read what a two-stage detector's neck (or backbone) returned."""
    return ProposalPrediction(tuple(output), network, training=network.training)


def _sampled(train_cfg: Any) -> int:
    """Return how many boxes of an image the second stage learns from, `MOST_PROPOSALS` at most."""
    rcnn = (train_cfg or {}).get('rcnn')
    first = rcnn[0] if isinstance(rcnn, (list, tuple)) else rcnn
    return min((first or {}).get('sampler', {}).get('num', MOST_PROPOSALS), MOST_PROPOSALS)


def _whole(like: InstanceData, meta: dict[str, Any]) -> Tensor:
    height, width = meta['img_shape'][:2]
    return like.bboxes.new_tensor([[0, 0, width, height]])


def _sample(
    instances: InstanceData, meta: dict[str, Any], labels: int | None = None
) -> DetDataSample:
    own = InstanceData(**dict(instances.items()))
    if labels is not None:
        own.labels = torch.full_like(own.labels, labels)
    return DetDataSample(metainfo=dict(meta), gt_instances=own)
