"""Predictions of one-stage instance segmentation: RTMDet-Ins, CondInst, SOLOv2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmdet.models.dense_heads import CondInstMaskHead, RTMDetInsHead
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from mmkd.utils.errors import ConfigError

from .masks import LastCall, as_bitmaps, boxes_of, by_image
from .own_loss import of_images, sum_of_losses
from .readers import flatten_levels, prediction_reader, priors_of, read_dense, read_rtmdet
from .structures import Candidates, DensePrediction, DetectorPrediction

MOST_CELLS = 100  # of an image, whose masks are drawn to find their boxes


@prediction_reader.register(RTMDetInsHead)
def read_rtmdet_ins(head: Any, output: Any) -> DensePrediction:
    """RTMDet-Ins: RTMDet's classes and boxes, and a kernel of each position for the mask."""
    classes, _, kernels, features = output

    def masks(images: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        own = flatten_levels(kernels, head.num_gen_params)[images, positions]
        priors = priors_of(head, classes, with_stride=True)[positions]
        return by_image(
            images,
            lambda image, chosen: head._mask_predict_by_feat_single(
                features[image], own[chosen], priors[chosen]
            ),
        )

    stride = head.prior_generator.strides[0][0]
    return replace(read_rtmdet(head, output), masks=masks, mask_stride=stride)


@dataclass
class CondInstPrediction(DensePrediction):
    """CondInst: FCOS's classes and boxes, and a kernel of each position for the mask.

    Args:
        mask_head: The mask head, whose features are made once in a forward pass.
        features: These (N, C, h, w).
    """

    mask_head: Any = None
    features: Any = None

    def own_loss(
        self,
        truth: Sequence[InstanceData],
        image_metas: Sequence[dict[str, Any]],
        images: Sequence[int],
    ) -> Tensor:
        """Return the losses of both heads for another truth."""
        loss = super().own_loss(truth, image_metas, images)
        # BoxInst's mask head learns from colors, which no truth has.
        if 'masks' not in truth[0] or type(self.mask_head) is not CondInstMaskHead:
            return loss
        metas = [image_metas[i] for i in images]
        positives = self.head.get_positive_infos()
        features = of_images(self.features, images, len(image_metas))
        drawn = [self.mask_head.forward_single(*each)[0] for each in zip(features, positives)]
        terms = self.mask_head.loss_by_feat(
            drawn, as_bitmaps(truth, metas), metas, positive_infos=positives
        )
        return loss + sum_of_losses(terms, masks=True)


def read_condinst(head: Any, output: Any, mask_head: Any, call: LastCall) -> CondInstPrediction:
    """Read what CondInst's box head returned.

    Args:
        head: The box head.
        output: Classes, boxes, centerness and kernels of each level.
        mask_head: The mask head.
        call: The last one of its `mask_feature_head`.

    Raises:
        ConfigError: If the images' mask features were not made with it, as of a frozen member that
            keeps its predictions.
    """
    features = call.pop()[1]
    classes, kernels = output[0], output[3]
    if features is None or len(features) != len(classes[0]):
        raise ConfigError(
            'cache_mb: the masks of CondInst need more than what is kept; leave cache_mb out'
        )
    found = read_dense(head, output)

    def masks(images: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        own = flatten_levels(kernels, head.num_params)[images, positions]
        priors = priors_of(head, classes, with_stride=True)[positions]
        points, strides = priors[:, :2], priors[:, 2]

        def draw(image: int, chosen: Tensor) -> Tensor:
            positives = InstanceData(
                param_preds=own[chosen], points=points[chosen], strides=strides[chosen]
            )
            drawn = mask_head.forward_single(features[image], positives)[0]
            return drawn if len(chosen) else drawn[:, 0]

        return by_image(images, draw)

    values = {name: getattr(found, name) for name in ('cls_logits', 'obj_logits', 'boxes')}
    return CondInstPrediction(
        **values,
        head=head,
        outputs=output,
        masks=masks,
        mask_stride=mask_head.mask_out_stride,
        mask_head=mask_head,
        features=features,
    )


@dataclass
class GridPrediction(DensePrediction):
    """SOLOv2: a class and a mask of each cell of its grids; it has no boxes.

    `boxes` are the cells, in shares of the image: two members' cells are compared class by class,
    and where the source is sure of something mask by mask. For a link by boxes, a cell's box is
    that of its mask.
    """

    def aligned(
        self,
        source: DetectorPrediction,
        image_metas: Sequence[dict[str, Any]],
        queries: str = 'matched',
    ) -> list[tuple[DensePrediction, DensePrediction]]:
        """Compare cell by cell where both have the same grids."""
        if not isinstance(source, GridPrediction) or source.boxes.shape != self.boxes.shape:
            return []
        # As many cells may be of other grids.
        return [(self, source)] if torch.allclose(source.boxes, self.boxes) else []

    def candidates(self, image_metas: Sequence[dict[str, Any]]) -> list[Candidates]:
        """Return the boxes of the masks of the 100 surest cells; the others' are empty."""
        assert self.masks is not None
        found = []
        with torch.no_grad():
            for image, scores in enumerate(self.class_scores):
                best = scores.amax(-1).topk(min(MOST_CELLS, len(scores))).indices
                drawn = self.masks(torch.full_like(best, image), best, best) > 0
                boxes = torch.zeros_like(self.boxes[image])
                boxes[best] = boxes_of(drawn).to(boxes) * self.mask_stride
                found.append(Candidates(boxes, scores))
        return found


def read_solo(head: Any, output: Any) -> GridPrediction:
    """Read what SOLOv2's head returned: kernels and classes of each grid, and mask features."""
    kernels, classes, features = output
    size = head.dynamic_conv_size

    def masks(images: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        own = flatten_levels(kernels, head.kernel_out_channels)[images, positions]

        def draw(image: int, chosen: Tensor) -> Tensor:
            if not len(chosen):
                return features.new_zeros((0, *features.shape[-2:]))
            # SOLOv2 takes the kernels' channels as (in, size, size).
            weight = own[chosen].reshape(len(chosen), -1, size, size)
            return F.conv2d(features[image][None], weight, padding=size // 2)[0]

        return by_image(images, draw)

    return GridPrediction(
        flatten_levels(classes, head.cls_out_channels),
        None,
        _cells(classes),
        head=head,
        outputs=(list(kernels), list(classes), features),
        masks=masks,
        mask_stride=head.mask_stride,
    )


def _cells(maps: Sequence[Tensor]) -> Tensor:
    """Return the cells (N, P, 4) of each map's grid, xyxy as shares of the image."""
    cells = []
    for each in maps:
        height, width = each.shape[-2:]
        size = each.new_tensor([width, height], dtype=torch.float32)
        rows, columns = torch.meshgrid(
            *(torch.arange(n, device=each.device) for n in (height, width)), indexing='ij'
        )
        corners = torch.stack([columns, rows], -1).reshape(-1, 2)
        cells.append(torch.cat([corners / size, (corners + 1) / size], 1))
    return torch.cat(cells).expand(len(maps[0]), -1, -1)
