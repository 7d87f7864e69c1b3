"""Networks as modules of tensors alone, for ONNX: a member, or an ensemble as one graph.

A graph takes images (N, 3, H, W) as the test pipeline leaves them, float, in 0 to 255 and in the
file's channel order (BGR); each network's normalization is part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd.models.distillers.preprocessing import pixel_statistics, swaps_channels
from mmkd.models.ensembles import (
    ClassificationEnsemble,
    DetectionEnsemble,
    Ensemble,
    SegmentationEnsemble,
)
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
        from mmkd.tasks.classification.classification_task import WHOLE

        if not isinstance(network, WHOLE) and getattr(network, 'head', None) is None:
            raise ConfigError(f'{name}: {type(network).__name__} has no head: no scores to export')

    def logits(self, network: Any, images: Tensor) -> Tensor:
        """Return the head's logits (N, classes)."""
        return network(images, mode='tensor')

    def is_sigmoid(self, network: Any) -> bool:
        """Whether an image may have several labels."""
        from mmpretrain.models.heads import MultiLabelClsHead

        return isinstance(getattr(network, 'head', None), MultiLabelClsHead)


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

    `boxes` (N, P, 4), xyxy in pixels of the input, and `scores` (N, P, classes). Where the head
    drops candidates level by level there is also `levels` (N, L), each level's number of positions,
    and where it does so before it multiplies the classes by centerness or the like, `factors`
    (N, P), which are part of `scores`. Of an ensemble `<member>_boxes`, ... `onnx_boxes.py` has the
    steps after it. The temperature is for the scores after them.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], fusion: Any = None, temperature: float = 1.0
    ) -> None:
        super().__init__(networks, fusion, temperature)
        self.kinds = {name: self._kinds(network) for name, network in networks.items()}
        prefix = '{}_' if fusion is not None else ''
        self.outputs = [
            f'{prefix.format(name)}{kind}' for name, kinds in self.kinds.items() for kind in kinds
        ]
        self.positions = {
            name: {1: 'positions'} for name in self.outputs if not name.endswith('levels')
        }
        keys = [*signature(DetectionEnsemble.__init__).parameters][1:]
        self.fusion = None if fusion is None else {key: getattr(fusion, key) for key in keys}

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
        head = getattr(network, 'bbox_head', None)
        if head is None:
            raise ConfigError(f'{name}: {type(network).__name__} has no dense head to export')
        kind = type(head).__name__
        if isinstance(head, RTMDetInsHead):
            raise ConfigError(
                f'{name}.bbox_head: RTMDetInsHead cannot be exported: its masks are made of the '
                'boxes that are left after NMS'
            )
        try:
            reader_of(head, f'{name}.bbox_head')
        except ConfigError as error:
            raise ConfigError(
                f'{name}.bbox_head: {kind} cannot be exported: no '
                'prediction reader decodes its boxes (mmkd.tasks.detection.prediction_reader)'
            ) from error
        own = _own_step(head)
        if own:
            raise ConfigError(
                f'{name}.bbox_head: {kind} cannot be exported: it has a {own} of its own (local '
                'maxima, votes on boxes, ...), which mmkd.export.onnx_boxes does not repeat'
            )

    def _kinds(self, network: Any) -> list[str]:
        """Return what is given of a network."""
        from mmdet.models.dense_heads import YOLOV3Head, YOLOXHead

        from mmkd.tasks.detection.readers import prediction_reader

        head, kinds = network.bbox_head, ['boxes', 'scores']
        if isinstance(head, YOLOXHead):
            return kinds
        with torch.no_grad():
            image = next(network.parameters()).new_zeros(1, 3, 128, 128)
            dense = prediction_reader(head, head(network.extract_feat(image)))
        if not isinstance(head, YOLOV3Head):  # which takes the best of all levels together
            kinds.append('levels')
        return kinds if dense.obj_logits is None else [*kinds, 'factors']

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what `outputs` names of each network."""
        from mmkd.tasks.detection.readers import boxes_as_predicted, prediction_reader

        found: list[Tensor] = []
        for name, network in self.networks.items():
            model: Any = network
            output = model.bbox_head(model.extract_feat(self.pixels[name](images)))
            with boxes_as_predicted():
                dense = prediction_reader(model.bbox_head, output)
            given = dict(boxes=dense.boxes, scores=dense.cls_logits.float().sigmoid())
            if dense.obj_logits is not None:
                given['factors'] = dense.obj_logits.float().sigmoid()
                given['scores'] = given['scores'] * given['factors'].unsqueeze(-1)
            if 'levels' in self.kinds[name]:
                given['levels'] = _level_sizes(model.bbox_head, output[0])
            found += [given[kind] for kind in self.kinds[name]]
        return tuple(found)

    def metadata(self) -> dict[str, Any]:
        """Return each member's NMS and the fusion of boxes."""
        from mmdet.models.dense_heads import TOODHead, YOLOV3Head, YOLOXHead

        steps = {}
        for name, network in self.networks.items():
            head: Any = network.get_submodule('bbox_head')
            cfg, coder = head.test_cfg, getattr(head, 'bbox_coder', None)
            step = dict(
                score_thr=float(cfg.get('score_thr', 0)),
                nms=dict(cfg.get('nms') or dict(type='nms', iou_threshold=1.0)),
                max_per_img=int(cfg.get('max_per_img', -1)),
                min_size=float(cfg.get('min_bbox_size', -1)),
                best_class=False,
                clip=not isinstance(head, TOODHead | YOLOV3Head)
                and bool(getattr(coder, 'clip_border', True)),
                nms_pre=int(cfg.get('nms_pre', -1)),
                factor_thr=float(cfg.get('conf_thr', -1)) if isinstance(head, YOLOV3Head) else -1,
            )
            if isinstance(head, YOLOXHead):  # it does not look at the other settings
                step.update(max_per_img=-1, min_size=-1, best_class=True, clip=False, nms_pre=-1)
            steps[name] = step
        return dict(nms=steps, fusion=self.fusion)


def _own_step(head: Any) -> str:
    """Name what a head does on its way to boxes that `onnx_boxes.py` does not; '' if nothing."""
    from mmdet.models.dense_heads import GFLHead, TOODHead, YOLOV3Head, YOLOXHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    known = (BaseDenseHead, GFLHead, TOODHead, YOLOV3Head, YOLOXHead)
    for step in ('predict_by_feat', '_predict_by_feat_single', '_bbox_post_process'):
        own = getattr(type(head), step, None)
        if own is not None and all(own is not getattr(cls, step, None) for cls in known):
            return step
    return ''


def _level_sizes(head: Any, maps: Sequence[Tensor]) -> Tensor:
    """Return each level's number of positions (N, L), which follows the size of the image."""
    counts = head.prior_generator.num_base_priors
    ones = [
        torch.ones_like(level[:, :count], dtype=torch.float32) for level, count in zip(maps, counts)
    ]
    return torch.stack([level.sum((1, 2, 3)) for level in ones], dim=1).long()


GRAPHS: dict[str, type[Graph]] = dict(
    classification=ClassificationGraph,
    segmentation=SegmentationGraph,
    detection=DetectionGraph,
)
# What the graphs do of each task; an ensemble of another class may fuse in any other way.
ENSEMBLES: dict[str, type[Ensemble]] = dict(
    classification=ClassificationEnsemble,
    segmentation=SegmentationEnsemble,
    detection=DetectionEnsemble,
)


def build_graph(
    task: Task, networks: Mapping[str, nn.Module], fusion: Any = None, temperature: float = 1.0
) -> Graph:
    """Return the graph of networks of a task.

    Raises:
        ConfigError: If one of them, or the ensemble, cannot be exported: which module, and why.
    """
    kind = next((name for name, cls in TASKS.module_dict.items() if type(task) is cls), '')
    if kind not in GRAPHS:
        raise ConfigError(
            f'{type(task).__name__}: no graph for this task, only {", ".join(GRAPHS)}'
        )
    if fusion is not None and type(fusion) is not ENSEMBLES[kind]:
        raise ConfigError(
            f'model.ensemble.type: {type(fusion).__name__} cannot be exported: the graph fuses as '
            f'{ENSEMBLES[kind].__name__} does; export its members one by one'
        )
    return GRAPHS[kind](networks, fusion, temperature).eval()
