from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, singledispatch
from typing import TYPE_CHECKING, Any

import torch
from mmengine.structures import BaseDataElement
from mmseg.models.backbones import PIDNet
from mmseg.models.decode_heads import Mask2FormerHead, MaskFormerHead, PointHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import BaseSegmentor
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

from ..base import Task
from ..types import Network, TapReader
from .argmax import QuickArgmax
from .drawing import SegmentationDrawing
from .mixing import SegmentationMixing

if TYPE_CHECKING:
    from mmkd.models.ensembles import Ensemble


@TASKS.register_module('segmentation')
class SegmentationTask(Task):
    """Semantic segmentation by MMSegmentation's networks.

    Taps: `prediction` is the (last) decode head's logits before they are resized to the image, read
    at its layer `conv_seg`, or of a head without one what it returns, of several stages (K-Net) the
    last; of MaskFormer and Mask2Former the log-probabilities that their queries make together
    (`read_mask_queries`). `feature` is the map that the decode head
    reads if it reads one of the backbone's, else the backbone's last; another one by a module path
    (`feature_tap='backbone[2]'`). Pixels whose label is the decode head's `ignore_index`, padding
    among them, count in no link's loss.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__(networks)
        ignored = {name: head_of(network).ignore_index for name, network in networks.items()}
        self.check_equal(ignored, 'ignore_index', 'model.members')
        self.ignore_index = next(iter(ignored.values()))
        self.mixing = SegmentationMixing(self)
        self.drawing = SegmentationDrawing(self)

    @classmethod
    @override
    def fits(cls, network: Network) -> bool:
        return isinstance(network, BaseSegmentor)

    @override
    def resolve_tap(self, name: str, network: Network, key: str) -> tuple[str, TapReader | None]:
        head = head_of(network)
        if name == 'feature':
            return 'backbone', _feature_reader(network)
        if isinstance(head, (MaskFormerHead, Mask2FormerHead)):
            return 'decode_head', read_mask_queries
        stages = network.decode_head if head is not network.decode_head else None
        path = 'decode_head' if stages is None else f'decode_head.{len(stages) - 1}'
        if isinstance(getattr(head, 'conv_seg', None), nn.Module):
            return f'{path}.conv_seg', None
        return path, partial(read_logits, key=key)

    @override
    def calls_forward(self, module: nn.Module) -> bool:
        return isinstance(module, BaseDecodeHead)

    @override
    def default_loss(self, tap: str) -> dict | None:
        if tap == 'prediction':
            # Members with one channel and with two can't be compared; the link's build says so.
            one = all(head_of(network).out_channels == 1 for network in self.networks.values())
            return dict(type='KLDivergence', mode='sigmoid' if one else 'softmax')
        return super().default_loss(tap)

    @override
    def run_for_taps(
        self,
        network: Network,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None,
        paths: Sequence[str],
    ) -> None:
        roots = {path.split('.')[0] for path in paths}
        decodes = bool(roots - {'backbone', 'neck', 'auxiliary_head'})
        last = head_of(network)
        if decodes and (not isinstance(last, BaseDecodeHead) or isinstance(last, PointHead)):
            # Query-based heads need the images' sizes; PointRend's calls itself point by point.
            shape = tuple(inputs.shape[-2:])
            metas = [dict(img_shape=shape, pad_shape=shape, ori_shape=shape) for _ in inputs]
            network.encode_decode(inputs, metas)
            return
        features = network.extract_feat(inputs)
        if decodes:  # without resizing the logits to the image, as `encode_decode` does
            first, *others = _as_list(network.decode_head)
            output = first.forward(features)
            for head in others:
                output = head.forward(features, output)
        if 'auxiliary_head' in roots:
            for head in _as_list(network.auxiliary_head):
                head.forward(features)

    @override
    def valid_mask(self, data_samples: Sequence[BaseDataElement] | None) -> Tensor | None:
        if not data_samples or 'gt_sem_seg' not in data_samples[0]:
            return None
        labels = torch.stack([sample.gt_sem_seg.data for sample in data_samples])
        if self.ignore_index is None:
            return torch.ones_like(labels, dtype=torch.float32)
        return labels.ne(self.ignore_index).float()

    @override
    def predict(
        self, network: Network, inputs: Tensor, data_samples: Sequence[BaseDataElement]
    ) -> list[Any]:
        with QuickArgmax():
            return super().predict(network, inputs, data_samples)

    @override
    def num_classes(self, network: Network) -> int | None:
        head = head_of(network)
        losses = head.loss_decode if hasattr(head, 'loss_decode') else None
        if getattr(head, 'out_channels', None) != 1 or losses is None:
            return getattr(head, 'num_classes', None)
        sigmoid = all(getattr(loss, 'use_sigmoid', True) for loss in _as_list(losses))
        return None if sigmoid else 1  # a channel with sigmoid tells two classes apart

    @override
    def build_ensemble(self, members: Sequence[str], **cfg: Any) -> Ensemble:
        heads = {name: head_of(self.networks[name]) for name in members}
        self.check_equal(
            {name: head.out_channels for name, head in heads.items()},
            'output channels',
            'model.ensemble.members',
        )
        # Query-based heads have no threshold: they have a channel per class.
        cfg.setdefault('threshold', getattr(heads[members[0]], 'threshold', None))
        return build_checked(MODELS, dict(type='SegmentationEnsemble', **cfg), 'model.ensemble')


def read_mask_queries(head: nn.Module, output: Any) -> Tensor:
    """Return log-probabilities (N, C, H, W) of what a query-based head returned.

    Each pixel's scores are those of MaskFormer's semantic inference (Cheng et al., arXiv
    2107.06278, section 3.4), sum over queries of class probability (without "no object") times mask
    probability, here divided by their sum (mmkd's choice), so that a softmax gives them.

    Args:
        head: The head.
        output: Class logits (N, Q, C + 1) and mask logits (N, Q, H, W) of all decoder layers.
    """
    classes, masks = (layers[-1].float() for layers in output)
    log_class = classes.log_softmax(-1)[..., :-1, None, None]
    log_mask = F.logsigmoid(masks).unsqueeze(2)
    return (log_class + log_mask).logsumexp(1).log_softmax(1)


def read_logits(head: Any, output: Any, key: str) -> Tensor:
    """Return the logits (N, C, H, W) of what a decode head returned; of several stages the last.

    Args:
        head: The head.
        output: Logits, or a list of each stage's.
        key: Where the tap stands in the config, for the message.

    Raises:
        ConfigError: If these are no logits.
    """
    last = output[-1] if isinstance(output, (list, tuple)) and len(output) else output
    shape = tuple(last.shape) if isinstance(last, Tensor) else ()
    if len(shape) != 4 or shape[1] != head.out_channels:
        raise ConfigError(
            f"{key}: {type(head).__name__} has no layer 'conv_seg' for the 'prediction' tap, and "
            f'gives no {head.out_channels} logits itself ({shape or type(last).__name__}): name '
            "the module that gives its logits, or tap its features ('feature')"
        )
    return last


def head_of(network: Network) -> Any:
    """Return the decode head that gives a segmenter's prediction: the last one of a cascade."""
    head = network.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def _as_list(heads: Any) -> list[Any]:
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def _feature_reader(network: Network) -> TapReader:
    index = getattr(head_of(network), 'in_index', None)
    if isinstance(index, int) and not network.with_neck:
        # BiSeNet's last maps serve auxiliary heads.
        return lambda backbone, output: decoded_map(backbone, output, index)
    return lambda backbone, output: decoded_map(backbone, output, -1)


@singledispatch
def decoded_map(backbone: nn.Module, output: Any, index: int) -> Tensor:
    """Return the map that stands for a backbone's features; dispatches on the backbone's class.

    Args:
        backbone: The backbone.
        output: What it gave, in training or in eval mode.
        index: Which of several maps the decode head reads, -1 for the last.
    """
    if isinstance(output, (list, tuple)):
        return output[index] if -len(output) <= index < len(output) else output[-1]
    return output


@decoded_map.register(PIDNet)
def _(backbone: nn.Module, output: Any, index: int) -> Tensor:
    # Training adds the inputs of the auxiliary heads around the fused map.
    return output[1] if isinstance(output, tuple) else output
