"""Predictions of two-stage detectors, which depend on the boxes that the second stage looks at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from .own_loss import sum_of_losses
from .readers import prediction_reader
from .structures import Candidates, DensePrediction, DetectorPrediction, with_box_masks

MOST_PROPOSALS = 256  # of an image, that are compared

# Of each image class probabilities (R, C), without background, and boxes (R, C, 4).
Scored = list[tuple[Tensor, Tensor]]


@dataclass
class ProposalPrediction(DetectorPrediction):
    """A two-stage detector's features, and the network that makes boxes of them.

    Two members' second stages are compared on common ground: both score and refine the target's
    proposals, each on its own features; their RPNs are compared anchor by anchor where both have
    the same. They are as many of an image, the best, as the target's own second stage learns from,
    256 at most (mmkd's choice).

    Args:
        features: The levels of the neck, (N, C_l, H_l, W_l).
        network: The detector.
        classes: The classes that count, in this order; None: all.
        detached: Whether nothing that is computed of it has a gradient.
    """

    features: tuple[Tensor, ...]
    network: Any
    classes: tuple[int, ...] | None = None
    detached: bool = False
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

    def detach(self) -> ProposalPrediction:
        """Cut out of the graph: the network's heads get no gradient either."""
        features = tuple(level.detach() for level in self.features)
        return replace(self, features=features, detached=True)

    def of_classes(self, classes: Sequence[int]) -> ProposalPrediction:
        """Return what it says of these classes, in this order."""
        return replace(self, classes=tuple(classes))

    def _gradient(self) -> AbstractContextManager[Any]:
        return torch.no_grad() if self.detached else nullcontext()

    def proposals(self, image_metas: Sequence[dict[str, Any]]) -> list[InstanceData]:
        """Return the RPN's best boxes of each image, without gradient."""
        metas = list(image_metas)
        with torch.no_grad():
            found = self.network.rpn_head.predict_by_feat(
                *self._rpn_outputs, batch_img_metas=metas, cfg=self.network.test_cfg.rpn
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
        with self._gradient():
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

    def aligned(
        self, source: DetectorPrediction, image_metas: Sequence[dict[str, Any]]
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
        pairs = [(target, other)]
        if self.classes is None:
            anchors, others = self.rpn(), source.rpn()
            if anchors is not None and others is not None:
                pairs += anchors.aligned(others, image_metas)
        return pairs

    def rpn(self) -> DensePrediction | None:
        """Return what the RPN says at each anchor; None for an RPN of another kind."""
        head = self.network.rpn_head
        if not isinstance(head, RPNHead):
            return None
        with self._gradient():
            return prediction_reader(head, self._rpn_outputs)

    @cached_property
    def _rpn_outputs(self) -> Any:
        with self._gradient():
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
        if getattr(network.roi_head, 'with_mask', False):
            truth = with_box_masks(truth, metas)
        index = torch.as_tensor(list(images), device=self.features[0].device)
        features = tuple(level.index_select(0, index) for level in self.features)
        samples = [_sample(each, meta) for each, meta in zip(truth, metas)]
        objects = [_sample(each, meta, labels=0) for each, meta in zip(truth, metas)]
        # As `TwoStageDetector.loss` does after the features.
        terms, proposals = network.rpn_head.loss_and_predict(
            features,
            objects,
            proposal_cfg=network.train_cfg.get('rpn_proposal', network.test_cfg.rpn),
        )
        loss = sum_of_losses(terms)
        return loss + sum_of_losses(network.roi_head.loss(features, proposals, samples))

    def __str__(self) -> str:
        sizes = ', '.join(str(tuple(level.shape)) for level in self.features)
        return f'(features {sizes}, classes {self.num_classes})'


def read_proposals(module: Any, output: Any, network: Any) -> ProposalPrediction:
    """Read what a two-stage detector's neck (or backbone) returned."""
    return ProposalPrediction(tuple(output), network)


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
