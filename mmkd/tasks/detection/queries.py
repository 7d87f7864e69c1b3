"""Predictions of the DETR family: a set of queries, without an order of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.detectors import DABDETR, DINO, DeformableDETR
from mmdet.models.layers import inverse_sigmoid
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmkd.utils.buffers import run_again
from mmkd.utils.errors import ConfigError

from .masks import LastCall
from .own_loss import of_images, sum_of_losses
from .readers import log_odds
from .structures import Candidates, DensePrediction, DetectorPrediction

# Of classes, distance and GIoU in the cost of a pair: the boxes' as in DETR (arXiv 2005.12872).
COSTS = (2.0, 5.0, 2.0)


@dataclass
class QueryPrediction(DetectorPrediction):
    """What a transformer's last decoder layer says at its Q queries.

    Two members' queries are paired by Hungarian assignment: each pair's cost is that of DETR
    (Carion et al., arXiv 2005.12872, eq. 1), with the distance of the class probabilities in place
    of the probability of the true class, and weights 2, 5 and 2 (mmkd's choice, near DETR's). Where
    one has more queries than the other, some of them stay alone and teach or learn nothing.

    Aligned queries need no pairing: both decoders run a second time, on queries that start at the
    source's boxes, the surest first, so that the k-th of both looks at the same place. This is the
    consistent sampling of distillation points of KD-DETR (Wang et al., arXiv 2211.08071), whose
    points are the teacher's queries; that only their places are the source's, while each decoder
    keeps its own content of the k-th query, is mmkd's choice, since contents of unlike networks
    mean nothing to each other. For decoders that take places: DAB-DETR, Deformable DETR (one-stage:
    the boxes' centers), DINO.

    Args:
        cls_logits: Log-odds of each class (N, Q, C), without background.
        boxes: (N, Q, 4), cxcywh as shares of each image's own width and height.
        head: The head, for `own_loss`.
        layers: Class outputs and boxes of all decoder layers, (L, N, Q, ...), likewise.
        network: The detector, for aligned queries.
        inputs: What its decoder was called with, likewise.
        classes: The classes that count, in this order; None: all.
        detached: Whether nothing that is computed of it has a gradient.
        training: Mode of the network when it ran, and in which its decoder runs again.
    """

    cls_logits: Tensor
    boxes: Tensor
    head: Any = None
    layers: tuple[Tensor, Tensor] | None = None
    network: Any = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[int, ...] | None = None
    detached: bool = False
    training: bool = True

    @property
    def num_classes(self) -> int:
        """Number of classes C, without background."""
        return self.cls_logits.shape[-1]

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows from it."""
        return self.cls_logits.requires_grad

    def detach(self) -> QueryPrediction:
        """Cut out of the graph."""
        return QueryPrediction(
            self.cls_logits.detach(),
            self.boxes.detach(),
            network=self.network,
            inputs={k: v.detach() if isinstance(v, Tensor) else v for k, v in self.inputs.items()},
            classes=self.classes,
            detached=True,
            training=self.training,
        )

    def of_classes(self, classes: Sequence[int]) -> QueryPrediction:
        """Return what it says of these classes, in this order."""
        return replace(self, cls_logits=self.cls_logits[..., list(classes)], classes=tuple(classes))

    def in_pixels(self, image_metas: Sequence[dict[str, Any]]) -> Tensor:
        """Return the boxes (N, Q, 4) as xyxy in pixels."""
        sizes = [[*meta['img_shape'][1::-1]] * 2 for meta in image_metas]
        return bbox_cxcywh_to_xyxy(self.boxes.float()) * self.boxes.new_tensor(
            sizes, dtype=torch.float32
        ).unsqueeze(1)

    def aligned(
        self,
        source: DetectorPrediction,
        image_metas: Sequence[dict[str, Any]],
        queries: str = 'matched',
    ) -> list[tuple[DensePrediction, DensePrediction]]:
        """Pair the queries of both by Hungarian assignment, or start both at the source's boxes."""
        if not isinstance(source, QueryPrediction):
            return []
        if queries == 'aligned':
            count = min(self.cls_logits.shape[1], source.cls_logits.shape[1])
            order = source.cls_logits.detach().amax(-1).topk(count).indices.unsqueeze(-1)
            places = source.boxes.detach().float().gather(1, order.expand(-1, -1, 4))
            return [(self.queried(places, image_metas), source.queried(places, image_metas))]
        own, theirs = matched(*self._all(), *source._all())
        return [(self._at(own, image_metas), source._at(theirs, image_metas))]

    def _all(self) -> tuple[Tensor, Tensor]:
        return self.cls_logits.detach().float().sigmoid(), self.boxes.detach().float()

    def _at(self, chosen: Tensor, image_metas: Sequence[dict[str, Any]]) -> DensePrediction:
        index = chosen.to(self.boxes.device).unsqueeze(-1)
        return DensePrediction(
            self.cls_logits.gather(1, index.expand(-1, -1, self.num_classes)),
            None,
            self.in_pixels(image_metas).gather(1, index.expand(-1, -1, 4)),
        )

    def queried(self, places: Tensor, image_metas: Sequence[dict[str, Any]]) -> DensePrediction:
        """Run the decoder again, on queries that start elsewhere.

        Args:
            places: Boxes (N, K, 4), cxcywh as shares of each image's size; K at most Q.
            image_metas: What is known of each image.

        Raises:
            ConfigError: If the decoder takes no places.
        """
        network, own, count = self.network, dict(self.inputs), places.shape[1]
        if not isinstance(network, (DABDETR, DeformableDETR)):
            raise ConfigError(
                "queries='aligned' asks for a decoder that starts at boxes, which that of "
                f'{type(network).__name__} does not; what works: DAB-DETR, Deformable DETR and '
                "DINO, or queries='matched'"
            )
        for name in ('query', 'query_pos'):
            if own.get(name) is not None:  # denoising queries come first
                own[name] = own[name][:, -network.num_queries :][:, :count]
        if 'self_attn_mask' in own:
            own['self_attn_mask'] = None  # it parts denoising queries from the others
        if isinstance(network, DABDETR):
            own['query_pos'] = inverse_sigmoid(places)
        else:
            own['reference_points'] = places[..., : own['reference_points'].shape[-1]]
        # Called as functions: hooks have seen the step's own call.
        with (
            torch.no_grad() if self.detached else nullcontext(),
            run_again(network, self.training),
        ):
            states, references = network.decoder.forward(**own)
            if isinstance(network, DeformableDETR) and not isinstance(network, DINO):
                references = [own['reference_points'], *references]
            classes, boxes = network.bbox_head.forward(states, references)
        found = QueryPrediction(
            log_odds(classes[-1], network.bbox_head.loss_cls.use_sigmoid), boxes[-1]
        )
        if self.classes is not None:
            found = found.of_classes(self.classes)
        return DensePrediction(found.cls_logits, None, found.in_pixels(image_metas))

    def candidates(self, image_metas: Sequence[dict[str, Any]]) -> list[Candidates]:
        """Return every query's box."""
        scores = self.cls_logits.float().sigmoid()
        return [Candidates(*each) for each in zip(self.in_pixels(image_metas), scores)]

    def check_own_loss(self) -> None:
        """Every head of this family has one."""

    def own_loss(
        self,
        truth: Sequence[InstanceData],
        image_metas: Sequence[dict[str, Any]],
        images: Sequence[int],
    ) -> Tensor:
        """Return the matching loss of all decoder layers for another truth.

        The encoder's proposals and DINO's denoising queries learn from the ground truth alone.
        """
        assert self.layers is not None
        classes, boxes = of_images(self.layers, images, len(image_metas), dim=1)
        metas = [image_metas[i] for i in images]
        return sum_of_losses(DETRHead.loss_by_feat(self.head, classes, boxes, list(truth), metas))

    def __str__(self) -> str:
        n, q, c = self.cls_logits.shape
        return f'(images {n}, queries {q}, classes {c})'


def read_queries(head: Any, output: Any, network: Any, call: LastCall) -> QueryPrediction:
    """Read what a transformer's head returned; denoising queries, which come first, are left out.

    Args:
        head: The head.
        output: Class outputs (L, N, Q', C') and boxes (L, N, Q', 4) of all decoder layers, of whose
            Q' the last `network.num_queries` are the network's own.
        network: The detector.
        call: The last one of its decoder.
    """
    classes, boxes = (value[:, :, -network.num_queries :] for value in output)
    return QueryPrediction(
        log_odds(classes[-1], head.loss_cls.use_sigmoid),
        boxes[-1],
        head,
        (classes, boxes),
        network,
        call.pop()[0],
        training=network.training,
    )


def matched(
    target_scores: Tensor, target_boxes: Tensor, source_scores: Tensor, source_boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the indices, on the CPU, of the target's and the source's queries that are paired.

    Args:
        target_scores: Probabilities (N, Q, C).
        target_boxes: (N, Q, 4), cxcywh in [0, 1].
        source_scores: Probabilities (N, R, C).
        source_boxes: (N, R, 4).

    Returns:
        Two (N, min(Q, R)).
    """
    corners = bbox_cxcywh_to_xyxy(target_boxes), bbox_cxcywh_to_xyxy(source_boxes)
    parts = (
        torch.cdist(target_scores, source_scores, p=1),
        torch.cdist(target_boxes, source_boxes, p=1),
        1 - bbox_overlaps(*corners, mode='giou'),
    )
    cost = torch.stack([factor * part for factor, part in zip(COSTS, parts)]).sum(0)
    # One transfer for all images: each waits for the device.
    costs = torch.nan_to_num(cost, nan=1e6).cpu().numpy()
    rows, columns = zip(*(linear_sum_assignment(each) for each in costs))
    return torch.as_tensor(np.stack(rows)), torch.as_tensor(np.stack(columns))
