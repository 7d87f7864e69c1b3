"""bfloat16 on CPUs, for which mmcv's NMS and RoIAlign have no kernels."""

from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from torch import Tensor, nn


def widen_for_operators(network: nn.Module) -> None:
    """Give the operators of a two-stage detector float32 where it runs in bfloat16 on a CPU.

    RPNs and box heads then return float32, whose boxes go through NMS, and RoI extractors read
    float32; convolutions and linear layers stay in bfloat16. On other devices and in other types
    nothing changes.

    Args:
        network: Any detector; others than two-stage ones use NMS for predictions alone.
    """
    if not isinstance(network, TwoStageDetector):
        return
    rpn: nn.Module = getattr(network, 'rpn_head', nn.Identity())
    for module in network.modules():
        if module is rpn or isinstance(module, BBoxHead):
            module.register_forward_hook(_widened_output)
        elif isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(_widened_inputs)


def _widened_output(module: nn.Module, args: Any, output: Any) -> Any:
    return _widened(output)


def _widened_inputs(module: nn.Module, args: tuple[Any, ...]) -> Any:
    return _widened(args)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        narrow = value.dtype is torch.bfloat16 and value.device.type == 'cpu'
        return value.float() if narrow else value
    if isinstance(value, (tuple, list)):
        return type(value)(_widened(item) for item in value)
    return value
