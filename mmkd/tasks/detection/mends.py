"""What some of MMDetection's networks need beside others, given to them by hooks."""

from typing import Any

import torch
from mmdet.models.dense_heads import RTMDetHead, RTMDetInsHead, SSDHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from torch import Tensor, nn


def widen_for_operators(network: nn.Module) -> None:
    """Give the operators of a two-stage detector float32 where it runs in bfloat16 on a CPU.

    mmcv's NMS and RoIAlign have no kernels for it there. RPNs and box heads then return float32,
    whose boxes go through NMS, and RoI extractors read float32; convolutions and linear layers stay
    in bfloat16. On other devices and in other types nothing changes.

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


def leave_masks_out(network: nn.Module) -> None:
    """Let RTMDet, which cannot train on ground truth with masks, train where others need them.

    Args:
        network: Any detector; its own samples lose the masks if it is an RTMDet without a mask
            head.
    """
    head = getattr(network, 'bbox_head', None)
    if isinstance(head, RTMDetHead) and not isinstance(head, RTMDetInsHead):
        network.register_forward_pre_hook(_without_masks, with_kwargs=True)


def complete_ssd(network: nn.Module) -> None:
    """Give an SSD the `loss_cls` that MMDetection 3.5 asks for in predictions, and SSD has not.

    Args:
        network: Any detector.
    """
    head: Any = getattr(network, 'bbox_head', None)
    if isinstance(head, SSDHead) and not hasattr(head, 'loss_cls'):
        head.loss_cls = None


def _without_masks(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    samples = args[1] if len(args) > 1 else kwargs.get('data_samples')
    for sample in samples or []:
        if 'masks' in sample.get('gt_instances', ()):
            del sample.gt_instances.masks


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
