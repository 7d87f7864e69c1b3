"""A temperature as part of a plain network: the layer that makes its logits, divided by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmkd.tasks import task_of
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError

from .onnx_graph import build_graph


def tempered_state(
    plain: Config, state: Mapping[str, Tensor], name: str, temperature: float
) -> dict[str, Tensor]:
    """Return a network's weights with its logits divided by a temperature (Guo et al., ICML 2017).

    Thresholds of the config are moved with the scores, in place, so that the same pixels, labels
    and boxes stay. The result is checked with the network itself.

    Args:
        plain: The network's plain config.
        state: Its weights.
        name: Its name, for messages.
        temperature: Above 0.

    Raises:
        ConfigError: If the scores are not those of one linear or convolution layer: which module
            makes them, and why not. Nothing is changed then.
    """
    init_default_scope(plain.get('default_scope') or 'mmengine')
    with naming_keys(plain.model, 'model'), torch.random.fork_rng(devices=[]):
        network: Any = MODELS.build(plain.model)
    network.load_state_dict(state)
    network.eval()
    task = type(task_of({name: network})).__name__
    kind = next((k for k in HEADS if task.lower().startswith(k)), None)
    if kind is None:
        raise ConfigError(f'--temperature: {name}: {task}: only {", ".join(HEADS)} have one')
    build_graph(task_of({name: network}), {name: network})  # says what it cannot read
    head = HEADS[kind](network, name)
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    before, layers = _outputs(network, kind, images)
    if not layers:
        raise _refused(name, head, 'its logits are not the output of a linear or convolution layer')
    with torch.no_grad():
        for layer in layers:
            layer.weight.div_(temperature)
            if layer.bias is not None:
                layer.bias.div_(temperature)
    after, _ = _outputs(network, kind, images)
    expected = [logits / temperature for logits in before[0]] + before[1]
    if not all(map(_same, [*after[0], *after[1]], expected)):
        raise _refused(name, head, 'its logits do not follow the weights of their layer')
    _move_thresholds(plain, kind, head, temperature)
    return network.state_dict()


def _refused(name: str, head: nn.Module, why: str) -> ConfigError:
    return ConfigError(
        f'--temperature: {name}: {type(head).__name__} cannot take one into its weights: {why}; '
        'tools/export_onnx.py --temperature can'
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def _classifier(network: Any, name: str) -> Any:
    return getattr(network, 'head', network)


def _decoder(network: Any, name: str) -> Any:
    decoders = network.decode_head
    return decoders[-1] if isinstance(decoders, nn.ModuleList) else decoders


def _detector(network: Any, name: str) -> Any:
    from mmkd.tasks.detection.readers import prediction_reader

    head = network.bbox_head
    with torch.no_grad():
        dense = prediction_reader(head, head(network.extract_feat(torch.zeros(1, 3, 128, 128))))
    if dense.obj_logits is not None:
        raise _refused(name, head, 'a score is the product of two probabilities')
    if not getattr(head, 'use_sigmoid_cls', True):
        raise _refused(name, head, 'its scores are a softmax with the background')
    nms = head.test_cfg.get('nms') or {}
    if nms.get('type', 'nms') != 'nms':
        raise _refused(name, head, f'NMS of type {nms["type"]!r} depends on the scores themselves')
    return head


HEADS = dict(classification=_classifier, segmentation=_decoder, detection=_detector)


@torch.no_grad()
def _outputs(
    network: Any, kind: str, images: Tensor
) -> tuple[tuple[list[Tensor], list[Tensor]], list[Any]]:
    """Run a network: its logits and other outputs, and the layers whose outputs the logits are."""
    made: list[tuple[Any, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, args, output: made.append((module, output)))
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    others: list[Tensor] = []
    try:
        if kind == 'classification':
            logits = [network(images, mode='tensor')]
        elif kind == 'segmentation':
            logits = [_map_of(network, images)]
        else:
            first, *rest = network.bbox_head(network.extract_feat(images))
            logits = list(first)
            others = [level for part in rest for level in part]
    finally:
        for handle in handles:
            handle.remove()
    layers = [[m for m, output in made if output is own] for own in logits]
    found = list(dict.fromkeys(m for own in layers for m in own))
    copies = [value.clone() for value in logits], [value.clone() for value in others]
    return copies, found if all(layers) else []


def _map_of(network: Any, images: Tensor) -> Tensor:
    """Return the decode head's map before it is resized, which is linear."""
    features, decoders = network.extract_feat(images), network.decode_head
    if not isinstance(decoders, nn.ModuleList):
        return decoders.forward(features)
    output = decoders[0].forward(features)
    for decoder in decoders[1:]:
        output = decoder.forward(features, output)
    return output


def _move_thresholds(plain: Config, kind: str, head: Any, temperature: float) -> None:
    if kind == 'segmentation' and head.out_channels == 1:
        decoders = plain.model.decode_head
        own = decoders[-1] if isinstance(decoders, Sequence) else decoders
        own['threshold'] = _moved(head.threshold, temperature)
    elif kind == 'classification' and getattr(head, 'thr', None) is not None:
        plain.model.head['thr'] = _moved(head.thr, temperature)
    elif kind == 'detection' and head.test_cfg.get('score_thr'):
        plain.model.test_cfg['score_thr'] = _moved(head.test_cfg.score_thr, temperature)


def _moved(threshold: float, temperature: float) -> float:
    """Return the threshold that a score's log-odds pass when they are divided."""
    if not 0 < threshold < 1:
        return threshold
    return 1 / (1 + math.exp(-math.log(threshold / (1 - threshold)) / temperature))
