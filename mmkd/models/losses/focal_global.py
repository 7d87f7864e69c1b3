from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.models.losses.base import DistillationLoss
from mmkd.models.utils.logits import check_tau
from mmkd.models.utils.normalize import EPS
from mmkd.models.utils.shapes import check_maps, check_same_shape
from mmkd.registry import MODELS
from mmkd.utils.checks import check_integer, check_number
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class FocalGlobal(DistillationLoss):
    """Objects and background apart, weighted by the source's attention; and the global context.

    FGD, Yang et al., "Focal and Global Knowledge Distillation for Detectors" (arXiv 2111.11837).
    With A_s = HW softmax(mean_c |s| / tau) over the positions, A_c = C softmax(mean_hw |s| / tau)
    over the channels (both of the source), M_f = 1 / area inside each ground-truth box (of the
    smaller one where boxes overlap) and M_b uniform outside all,

        loss = foreground_weight sum M_f A_s A_c (t - s)^2 / sum M_f
             + background_weight sum M_b A_s A_c (t - s)^2 / sum M_b
             + attention_weight (mean |A_s(t) - A_s(s)| + mean |A_c(t) - A_c(s)|)
             + global_weight mean (R_t(t) - R_s(s))^2

    where R adds a context block's output (global attention pooling, then two 1x1 convolutions with
    a layer norm between; the last starts at 0; both sides' are trained with the target's
    optimizer). The paper's sums over positions, channels and boxes and its weights of 1e-3, 5e-4,
    1e-3 and 5e-6 are means here, averaged over channels and divided by the source's mean square in
    all terms of features (mmkd's choice): the value depends neither on the resolution nor on the
    network, and weights of about 1 are sensible.

    Args:
        out_channels: The source's channels, which the target's map has after the connector.
        foreground_weight: The paper's alpha.
        background_weight: The paper's beta.
        attention_weight: The paper's gamma.
        global_weight: The paper's lambda.
        tau: Temperature of the attention (0.5 in the paper; 0.8 for anchor-free detectors).
    """

    def __init__(
        self,
        out_channels: int,
        foreground_weight: float = 1.0,
        background_weight: float = 0.5,
        attention_weight: float = 1.0,
        global_weight: float = 1.0,
        tau: float = 0.5,
    ) -> None:
        super().__init__()
        check_integer(out_channels, 'out_channels')
        check_number(foreground_weight, 'foreground_weight')
        check_number(background_weight, 'background_weight')
        check_number(attention_weight, 'attention_weight')
        check_number(global_weight, 'global_weight')
        self.foreground_weight, self.background_weight = foreground_weight, background_weight
        self.attention_weight, self.global_weight = attention_weight, global_weight
        self.tau = check_tau(tau)
        self.target_context = _ContextBlock(out_channels)
        self.source_context = _ContextBlock(out_channels)

    def forward(
        self,
        target: Tensor,
        source: Tensor,
        data_samples: Sequence[Any] | None,
        task: Any = None,
    ) -> Tensor:
        """Compare maps.

        Args:
            target: (N, C, H, W).
            source: Of the same shape.
            data_samples: One per image, with `gt_instances.bboxes` in pixels of the network's
                input, whose size is the meta key `batch_input_shape`.
            task: The members' task.

        Returns:
            A scalar.

        Raises:
            ConfigError: For other tasks than detection, vectors, maps whose shapes differ, and
                batches without boxes' samples.
        """
        kinds = {kind.__name__ for kind in type(task).__mro__}  # importing it would load mmdet
        if task is not None and 'DetectionTask' not in kinds:
            raise ConfigError(f'FocalGlobal is for detectors, not for a {type(task).__name__}')
        check_maps(target, source)
        check_same_shape(target, source)
        with torch.autocast(target.device.type, enabled=False):
            target, source = target.float(), source.float()
            foreground, background = _object_masks(data_samples, source)
            scale = source.square().mean().detach().clamp(min=EPS**2)
            (spatial_t, channel_t), (spatial_s, channel_s) = map(self._attention, (target, source))
            distance = ((target - source).square() * channel_s).mean(1, keepdim=True) / scale
            distance = distance * spatial_s
            loss = self.foreground_weight * _share(distance, foreground)
            loss = loss + self.background_weight * _share(distance, background)
            attention = (spatial_t - spatial_s).abs().mean() + (channel_t - channel_s).abs().mean()
            loss = loss + self.attention_weight * attention
            context = (self.target_context(target) - self.source_context(source)).square().mean()
            return loss + self.global_weight * context / scale

    def _attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attention over positions (N, 1, H, W) and over channels (N, C, 1, 1), with mean 1."""
        size = x.abs()
        spatial = (size.mean(1).flatten(1) / self.tau).softmax(1) * x[0, 0].numel()
        channel = (size.mean((2, 3)) / self.tau).softmax(1) * x.shape[1]
        return spatial.view_as(x[:, :1]), channel[..., None, None]


class _ContextBlock(nn.Module):
    """Global context block (Cao et al., arXiv 1904.11492) with half the channels inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.Conv2d(channels, 1, 1)
        inner = max(1, channels // 2)
        last = nn.Conv2d(inner, channels, 1)
        self.add = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.LayerNorm([inner, 1, 1]),
            nn.ReLU(inplace=True),
            last,
        )
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Add the context to x (N, C, H, W)."""
        attention = self.pool(x).flatten(1).softmax(1)
        context = x.flatten(2) @ attention.unsqueeze(2)
        return x + self.add(context.unsqueeze(3))


def _share(distance: Tensor, mask: Tensor) -> Tensor:
    return (distance * mask).sum() / mask.sum().clamp(min=torch.finfo(mask.dtype).tiny)


def _object_masks(data_samples: Sequence[Any] | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """M_f, 1 / area inside the boxes, and M_b, 1 / area outside all of them: (N, 1, H, W)."""
    height, width = like.shape[-2:]
    foreground = like.new_zeros(len(like), 1, height, width)
    if data_samples is None:
        if torch.is_grad_enabled():
            raise ConfigError("no boxes in this batch: the link needs on='labeled'")
        data_samples = ()  # the build's probe
    for image, sample in zip(foreground, data_samples):
        if 'gt_instances' not in sample or 'batch_input_shape' not in sample.metainfo:
            raise ConfigError(
                f'{type(sample).__name__} has no gt_instances or no batch_input_shape: FocalGlobal '
                'is for detectors'
            )
        boxes = sample.gt_instances.bboxes
        boxes = getattr(boxes, 'tensor', boxes).detach().float().cpu()
        rows, columns = sample.metainfo['batch_input_shape']
        boxes = boxes * boxes.new_tensor([width / columns, height / rows] * 2)
        for left, top, right, bottom in boxes.tolist():
            # Each box covers at least the cell where it begins.
            x, y = min(max(int(left), 0), width - 1), min(max(int(top), 0), height - 1)
            ends = (
                max(x + 1, min(-int(-right // 1), width)),
                max(y + 1, min(-int(-bottom // 1), height)),
            )
            area = (ends[0] - x) * (ends[1] - y)
            region = image[0, y : ends[1], x : ends[0]]
            region.clamp_(min=1 / area)
    outside = foreground.eq(0).float()
    return foreground, outside / outside.sum((1, 2, 3), keepdim=True).clamp(min=1)
