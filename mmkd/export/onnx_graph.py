"""Networks as modules of tensors alone, for ONNX: a member, or an ensemble as one graph.

A graph takes images (N, 3, H, W) as the test pipeline leaves them, float, in 0 to 255 and in the
file's channel order (BGR); each network's normalization is part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd.models.distillers.preprocessing import pixel_statistics, swaps_channels
from mmkd.registry import TASKS
from mmkd.tasks import Task
from mmkd.utils.errors import ConfigError


class Pixels(nn.Module):
    """Normalize images as a network's own data preprocessor does."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessor: nn.Module) -> None:
        super().__init__()
        mean, std = pixel_statistics(preprocessor)
        self.swaps = swaps_channels(preprocessor)
        self.register_buffer('mean', mean.float().reshape(1, -1, 1, 1))
        self.register_buffer('std', std.float().reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalize images (N, 3, H, W)."""
        return ((images.flip(1) if self.swaps else images) - self.mean) / self.std


class Graph(nn.Module):
    """Networks side by side on the same images.

    Args:
        networks: By name. Several are an ensemble.
        fusion: The ensemble, None for one network alone.
        temperature: The fused (or single) probabilities' log-odds are divided by it.

    Attributes:
        outputs: Names of what `forward` returns.
        positions: By output name the axes beside the batch that grow with the image, with names.
    """

    outputs: Sequence[str] = ('scores',)
    positions: Mapping[str, Mapping[int, str]] = {}

    def __init__(
        self, networks: Mapping[str, nn.Module], fusion: Any = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.pixels = nn.ModuleDict(
            {name: Pixels(network.get_submodule('data_preprocessor')) for name, network in
             networks.items()}
        )  # fmt: skip
        self.mean_of_logits = getattr(fusion, 'fusion', 'probability') == 'logits'
        self.temperature = float(temperature)
        for name, network in networks.items():
            self.check(name, network)

    def check(self, name: str, network: Any) -> None:
        """Raise a ConfigError for a network that cannot become a graph."""

    def metadata(self) -> dict[str, Any]:
        """Return what the steps after the graph need."""
        return {}

    def logits(self, network: Any, images: Tensor) -> Tensor:
        """Return a network's logits (N, C, ...) for its normalized images."""
        raise NotImplementedError

    def is_sigmoid(self, network: Any) -> bool:
        """Whether the channels are independent of each other."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Any:
        """Return probabilities (N, C, ...)."""
        found = [
            self.logits(network, self.pixels[name](images))
            for name, network in self.networks.items()
        ]
        sigmoid = self.is_sigmoid(next(iter(self.networks.values())))
        if len(found) == 1 or self.mean_of_logits:
            # Of logits that differ by a constant the mean's softmax is the same.
            mean = torch.stack(found).mean(0) / self.temperature
            return mean.sigmoid() if sigmoid else mean.softmax(1)
        mean = torch.stack([x.sigmoid() if sigmoid else x.softmax(1) for x in found]).mean(0)
        return mean if self.temperature == 1 else tempered(mean, self.temperature, sigmoid)


def tempered(probabilities: Tensor, temperature: float, sigmoid: bool) -> Tensor:
    """Divide the log-odds of probabilities (N, C, ...) by a temperature.

    Temperature scaling: Guo et al., "On calibration of modern neural networks" (ICML 2017).
    """
    if sigmoid:
        safe = probabilities.clamp(1e-6, 1 - 1e-6)
        return ((safe / (1 - safe)).log() / temperature).sigmoid()
    return (probabilities.clamp(min=1e-12).log() / temperature).softmax(1)


class ClassificationGraph(Graph):
    """`scores` (N, classes): probabilities."""

    def check(self, name: str, network: Any) -> None:
        """Refuse networks without a head."""
        if getattr(network, 'head', None) is None:
            raise ConfigError(f'{name}: {type(network).__name__} has no head: no scores to export')

    def logits(self, network: Any, images: Tensor) -> Tensor:
        """Return the head's logits (N, classes)."""
        return network(images, mode='tensor')

    def is_sigmoid(self, network: Any) -> bool:
        """Whether an image may have several labels."""
        from mmpretrain.models.heads import MultiLabelClsHead

        return isinstance(network.head, MultiLabelClsHead)


class SegmentationGraph(Graph):
    """`scores` (N, C, H, W): probabilities at the size of the input.

    mmkd's ensemble fuses at the original size, after each member's logits were resized to it; a
    graph does not know that size and fuses before.
    """

    positions = {'scores': {2: 'height', 3: 'width'}}

    def check(self, name: str, network: Any) -> None:
        """Refuse query-based heads, whose maps are no logits of a convolution, and windows."""
        from mmseg.models.decode_heads import PointHead
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        from mmkd.tasks.segmentation.segmentation_task import head_of

        head = head_of(network)
        if not isinstance(head, BaseDecodeHead) or isinstance(head, PointHead):
            raise ConfigError(
                f'{name}.decode_head: {type(head).__name__} cannot be exported: its map is not '
                'made by one forward pass of tensors'
            )
        if network.test_cfg.get('mode', 'whole') != 'whole':
            raise ConfigError(
                f'{name}.test_cfg.mode: {network.test_cfg.mode!r} cannot be exported: the loop '
                "over windows depends on the image's size; export with mode='whole'"
            )

    def logits(self, network: Any, images: Tensor) -> Tensor:
        """Return logits (N, C, H, W) at the size of the images."""
        features = network.extract_feat(images)
        decoders = network.decode_head
        if not isinstance(decoders, nn.ModuleList):
            output = decoders.forward(features)
        else:
            output = decoders[0].forward(features)
            for decoder in decoders[1:]:
                output = decoder.forward(features, output)
        return F.interpolate(
            output, images.shape[2:], mode='bilinear', align_corners=network.align_corners
        )

    def is_sigmoid(self, network: Any) -> bool:
        """Whether the one channel is the foreground's."""
        from mmkd.tasks.segmentation.segmentation_task import head_of

        return head_of(network).out_channels == 1


class DetectionGraph(Graph):
    """Every position's box and scores, before NMS, of each member.

    `boxes` (N, P, 4), xyxy in pixels of the input, and `scores` (N, P, classes), objectness
    included; of an ensemble `<member>_boxes` and `<member>_scores`. `onnx_boxes.py` has the steps
    after it. The temperature is for the scores after them. A box side at a negative distance from
    its point, which some heads give where nothing is, stands at the point.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], fusion: Any = None, temperature: float = 1.0
    ) -> None:
        super().__init__(networks, fusion, temperature)
        prefixes = [f'{name}_' for name in networks] if fusion is not None else ['']
        self.outputs = [f'{prefix}{kind}' for prefix in prefixes for kind in ('boxes', 'scores')]
        self.positions = {name: {1: 'positions'} for name in self.outputs}
        self.fusion = None if fusion is None else {
            key: getattr(fusion, key)
            for key in ('fusion', 'iou_thr', 'conf_type', 'score_thr', 'max_per_img')
        }  # fmt: skip

    def check(self, name: str, network: Any) -> None:
        """Refuse what is not a dense head with a prediction reader."""
        from mmdet.models.dense_heads import RTMDetInsHead

        from mmkd.tasks.detection.readers import reader_of

        for part in ('roi_head', 'panoptic_head', 'mask_head'):
            if getattr(network, part, None) is not None:
                raise ConfigError(
                    f'{name}.{part}: {type(getattr(network, part)).__name__} cannot be exported: '
                    'its boxes or masks depend on another NMS inside the network'
                )
        if getattr(network, 'bbox_head', None) is None:
            raise ConfigError(f'{name}: {type(network).__name__} has no dense head to export')
        if isinstance(network.bbox_head, RTMDetInsHead):
            raise ConfigError(
                f'{name}.bbox_head: RTMDetInsHead cannot be exported: its masks are made of the '
                'boxes that are left after NMS'
            )
        try:
            reader_of(network.bbox_head, f'{name}.bbox_head')
        except ConfigError as error:
            raise ConfigError(
                f'{name}.bbox_head: {type(network.bbox_head).__name__} cannot be exported: no '
                'prediction reader decodes its boxes (mmkd.tasks.detection.prediction_reader)'
            ) from error

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return boxes and scores of each network, in the order of `outputs`."""
        from mmkd.tasks.detection.readers import prediction_reader

        found: list[Tensor] = []
        for name, network in self.networks.items():
            model: Any = network
            output = model.bbox_head(model.extract_feat(self.pixels[name](images)))
            dense = prediction_reader(model.bbox_head, output)
            scores = dense.cls_logits.float().sigmoid()
            if dense.obj_logits is not None:
                scores = scores * dense.obj_logits.float().sigmoid().unsqueeze(-1)
            found += [dense.boxes, scores]
        return tuple(found)

    def metadata(self) -> dict[str, Any]:
        """Return each member's NMS and the fusion of boxes."""
        from mmdet.models.dense_heads import YOLOXHead

        steps = {}
        for name, network in self.networks.items():
            head: Any = network.get_submodule('bbox_head')
            cfg = head.test_cfg
            steps[name] = dict(
                score_thr=float(cfg.get('score_thr', 0)),
                nms=dict(cfg.get('nms') or dict(type='nms', iou_threshold=1.0)),
                max_per_img=int(cfg.get('max_per_img', -1)),
                min_size=float(cfg.get('min_bbox_size', -1)),
                # YOLOX gives each position its best class, and does not cut boxes at the border.
                best_class=isinstance(head, YOLOXHead),
                clip=not isinstance(head, YOLOXHead),
            )
        return dict(nms=steps, fusion=self.fusion)


GRAPHS: dict[str, type[Graph]] = dict(
    classification=ClassificationGraph,
    segmentation=SegmentationGraph,
    detection=DetectionGraph,
)


def build_graph(
    task: Task, networks: Mapping[str, nn.Module], fusion: Any = None, temperature: float = 1.0
) -> Graph:
    """Return the graph of networks of a task.

    Raises:
        ConfigError: If one of them cannot be exported: which module, and why.
    """
    kind = next((name for name, cls in TASKS.module_dict.items() if type(task) is cls), '')
    if kind not in GRAPHS:
        raise ConfigError(
            f'{type(task).__name__}: no graph for this task, only {", ".join(GRAPHS)}'
        )
    return GRAPHS[kind](networks, fusion, temperature).eval()
