"""Which detectors can teach which, tried out: small forms of MMDetection's configs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import CenterNetHead
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError

SIZE, IMAGES, CLASSES = 128, 2, 2
WIDTHS = [8, 16, 32, 64]  # of the ResNet-18s' stages
_resnet = {
    'backbone.init_cfg': None,
    'backbone.depth': 18,
    'backbone.base_channels': 8,
    'backbone.stem_channels': 8,
    'backbone.frozen_stages': -1,
    'backbone.norm_eval': False,
    'backbone.norm_cfg': dict(type='BN', requires_grad=True),
    'backbone.style': 'pytorch',
}
_pyramid = {**_resnet, 'neck.in_channels': WIDTHS, 'neck.out_channels': 32}
_dense = {
    **_pyramid,
    'bbox_head.in_channels': 32,
    'bbox_head.feat_channels': 64,  # two a group, where a level is one cell
    'bbox_head.stacked_convs': 1,
    'bbox_head.num_classes': CLASSES,
}
_cspnext = {
    'backbone.widen_factor': 0.125,
    'backbone.init_cfg': None,
    'neck.in_channels': [32, 64, 128],
    'neck.out_channels': 32,
    'bbox_head.in_channels': 32,
    'bbox_head.feat_channels': 32,
    'bbox_head.num_classes': CLASSES,
}
_plain_norm = {
    'backbone.norm_cfg.type': 'BN',
    'neck.norm_cfg.type': 'BN',
    'bbox_head.norm_cfg.type': 'BN',
}
_mobile = {'backbone.init_cfg': None, 'bbox_head.num_classes': CLASSES}
_rpn = {
    **_pyramid,
    'rpn_head.in_channels': 32,
    'rpn_head.feat_channels': 32,
    'roi_head.bbox_roi_extractor.out_channels': 32,
    'train_cfg.rpn_proposal.max_per_img': 100,
    'test_cfg.rpn.max_per_img': 100,
}
_box_head = {
    f'roi_head.bbox_head.{key}': value
    for key, value in dict(in_channels=32, fc_out_channels=32, num_classes=CLASSES).items()
}
_cascade = {
    f'roi_head.bbox_head.{stage}.{key}': value
    for stage in range(3)
    for key, value in dict(in_channels=32, fc_out_channels=32, num_classes=CLASSES).items()
}
_masks = {
    'roi_head.mask_roi_extractor.out_channels': 32,
    'roi_head.mask_head.in_channels': 32,
    'roi_head.mask_head.conv_out_channels': 16,
    'roi_head.mask_head.num_classes': CLASSES,
}
_solo = {
    **_pyramid,
    'mask_head.in_channels': 32,
    'mask_head.feat_channels': 32,
    'mask_head.stacked_convs': 1,
    'mask_head.num_classes': CLASSES,
    'mask_head.num_grids': [16, 12, 8, 6, 4],
    'mask_head.mask_feature_head.feat_channels': 32,
    'mask_head.mask_feature_head.out_channels': 32,
}
_condinst = {**_dense, 'mask_head.mask_feature_head.in_channels': 32}
_transformer = {
    **_resnet,
    'encoder.num_layers': 1,
    'decoder.num_layers': 2,
    'bbox_head.num_classes': CLASSES,
    'num_queries': 20,
    'encoder.layer_cfg.ffn_cfg.feedforward_channels': 64,
    'decoder.layer_cfg.ffn_cfg.feedforward_channels': 64,
}
_one_level = {**_transformer, 'neck.in_channels': WIDTHS[3:]}
_three_levels = {**_transformer, 'neck.in_channels': WIDTHS[1:]}
DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    'YOLOX': ('yolox/yolox_tiny_8xb8-300e_coco.py', _cspnext),
    'RTMDet': (
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        {**_cspnext, **_plain_norm},
    ),
    'RTMDet-Ins': (
        'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
        {**_cspnext, **_plain_norm, 'data_preprocessor.batch_augments': None},
    ),
    'RetinaNet': ('retinanet/retinanet_r50_fpn_1x_coco.py', _dense),
    'FCOS': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', _dense),
    'ATSS': ('atss/atss_r50_fpn_1x_coco.py', _dense),
    'PAA': ('paa/paa_r50_fpn_1x_coco.py', _dense),
    'GFL': ('gfl/gfl_r50_fpn_1x_coco.py', _dense),
    'VFNet': ('vfnet/vfnet_r50_fpn_1x_coco.py', _dense),
    'TOOD': (
        'tood/tood_r50_fpn_1x_coco.py',
        {**_dense, 'bbox_head.stacked_convs': 2, 'bbox_head.num_dcn': 0},
    ),
    'DDOD': ('ddod/ddod_r50_fpn_1x_coco.py', {**_dense, 'bbox_head.use_dcn': False}),
    'AutoAssign': ('autoassign/autoassign_r50-caffe_fpn_1x_coco.py', _dense),
    'YOLOF': (
        'yolof/yolof_r50-c5_8xb8-1x_coco.py',
        {
            **_resnet,
            'neck.in_channels': WIDTHS[3],
            'neck.out_channels': 32,
            'neck.block_mid_channels': 16,
            'bbox_head.in_channels': 32,
            'bbox_head.num_classes': CLASSES,
        },
    ),
    'YOLOv3': ('yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', _mobile),
    'SSD': ('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', _mobile),
    'CenterNet': (
        'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
        {
            **_resnet,
            'neck.in_channels': WIDTHS[3],
            'neck.num_deconv_filters': [32, 32, 16],
            'neck.use_dcn': False,
            'bbox_head.in_channels': 16,
            'bbox_head.feat_channels': 16,
            'bbox_head.num_classes': CLASSES,
        },
    ),
    'Faster R-CNN': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', {**_rpn, **_box_head}),
    'Cascade R-CNN': ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', {**_rpn, **_cascade}),
    'Mask R-CNN': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', {**_rpn, **_box_head, **_masks}),
    'CondInst': ('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py', _condinst),
    'SOLOv2': ('solov2/solov2_r50_fpn_1x_coco.py', _solo),
    'DETR': ('detr/detr_r50_8xb2-150e_coco.py', _one_level),
    'Conditional DETR': ('conditional_detr/conditional-detr_r50_8xb2-50e_coco.py', _one_level),
    'DAB-DETR': ('dab_detr/dab-detr_r50_8xb2-50e_coco.py', _one_level),
    'Deformable DETR': (
        'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py',
        _three_levels,
    ),
    'DINO': ('dino/dino-4scale_r50_8xb2-12e_coco.py', _three_levels),
}
MASKED = {'Mask R-CNN', 'RTMDet-Ins', 'CondInst', 'SOLOv2'}  # they learn masks, too
FORMS = dict(
    positions='position by position', proposals="the target's proposals", queries='paired queries'
)


class Tried(NamedTuple):
    """What a pair's training steps showed.

    Attributes:
        form: `positions`, `proposals`, `queries` or `boxes`.
        terms: The two links' terms in the first step, by key.
        seconds: Median CPU time of a step.
    """

    form: str
    terms: dict[str, float]
    seconds: float


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return all pairs, also of each detector with itself."""
    return list(itertools.combinations_with_replacement(names, 2))


def build(*names: str, **options: Any) -> Any:
    """Build a distiller of small detectors, the members `a`, `b`, ....

    Args:
        *names: Of `DETECTORS`. Two or more learn from each other's predictions.
        **options: Of the loss.
    """
    DefaultScope.get_instance('detector_pairs', scope_name='mmdet')
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD asks for it
    loss = dict(dict(type='DetectionLoss', score_thr=0.0, max_per_img=3), **options)
    members = {}
    for seed, (key, name) in enumerate(zip('abcdef', names), 1):
        config, changes = DETECTORS[choose(name, DETECTORS, 'detector')]
        members[key] = dict(config=f'mmdet::{config}', options=changes, seed=seed)
    model = MODELS.build(
        dict(
            type='mmkd.OnlineDistiller',
            members=members,
            sharing=dict(type='ml_p', prediction=loss) if len(names) > 1 else None,
            data_preprocessor=dict(
                type='DetDataPreprocessor',
                pad_size_divisor=32,
                mean=[127.5] * 3,
                std=[64.0] * 3,
                pad_mask=True,
            ),
        )
    )
    model.init_weights()
    for module in model.modules():
        if isinstance(module, CenterNetHead):  # its boxes begin without size, and teach nothing
            torch.nn.init.constant_(module.wh_head[-1].bias, 4.0)
    return model.train()


def batch(masks: bool = False, seed: int = 0) -> dict[str, list[Any]]:
    """Make a loader's batch: bright boxes of two classes on noise, with or without masks."""
    from mmdet.structures import DetDataSample

    from mmkd.tasks.detection.masks import as_bitmaps

    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Any]] = dict(inputs=[], data_samples=[])
    shape = (SIZE, SIZE)
    meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    for i in range(IMAGES):
        image = torch.randint(0, 80, (3, *shape), generator=generator, dtype=torch.uint8)
        corners = torch.randint(4, 30, (2, 2), generator=generator)
        boxes = torch.cat([corners, corners + 40], 1) + torch.tensor([[0], [50]])
        for label, (left, top, right, bottom) in enumerate(boxes.tolist()):
            image[label, top:bottom, left:right] = 255
        instances = InstanceData(bboxes=boxes.float(), labels=torch.arange(CLASSES))
        if masks:
            (instances,) = as_bitmaps([instances], [meta])
        sample = DetDataSample(metainfo=dict(meta, img_id=i), gt_instances=instances)
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        found['inputs'].append(image)
        found['data_samples'].append(sample)
    return found


def step(model: Any, data: dict[str, list[Any]], optimizer: Any = None) -> dict[str, float]:
    """Compute all loss terms of a batch, and take a step; return the terms."""
    losses, terms = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    if optimizer is not None:
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()
    return {key: value.item() for key, value in terms.items()}


def predictions_of(name: str) -> Any:
    """Build a detector, and return its prediction of an image as links read it."""
    return _predictions(build(name, name))[0]


def form_of(one: Any, other: Any) -> str:
    """Return the form in which two detectors' predictions are compared."""
    meta = dict.fromkeys(('img_shape', 'batch_input_shape'), (SIZE, SIZE))
    if not one.aligned(other, [meta]):
        return 'boxes'
    forms = dict(QueryPrediction='queries', ProposalPrediction='proposals')
    return forms.get(type(one).__name__, 'positions')


def _predictions(model: Any) -> list[Any]:
    values = model.read_taps(torch.zeros(1, 3, SIZE, SIZE), None)
    return [values[name, 'prediction'] for name in model.members.online]


def try_detectors(*names: str, steps: int = 3) -> Tried:
    """Build one or two detectors and take steps; two learn from each other.

    Args:
        *names: Of `DETECTORS`.
        steps: Measured steps, after one more.

    Raises:
        ConfigError: If they cannot be built, or a link gives nothing or what is not finite.
    """
    data, model = batch(bool(MASKED & set(names))), build(*names)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    terms = {k: v for k, v in step(model, data, optimizer).items() if '[' in k}
    if not all(0 < value < float('inf') for value in terms.values()):
        raise ConfigError(f'{" and ".join(names)}: expected positive terms, got {terms}')
    seconds = []
    for _ in range(steps):
        start = time.process_time()
        step(model, data, optimizer)
        seconds.append(time.process_time() - start)
    form = form_of(*_predictions(model)) if len(names) > 1 else ''
    return Tried(form, terms, median(seconds))


def forms_table(names: Sequence[str], tell: Callable[[str], Any] = print) -> str:
    """Build each detector once, and return the documentation's table of who is compared how.

    Args:
        names: Of `DETECTORS`.
        tell: Called with a line on each pair.
    """
    read = {name: predictions_of(name) for name in names}
    partners: dict[tuple[str, str], list[str]] = {}
    for one, other in pairs(names):
        form = form_of(read[one], read[other])
        tell(f'{one} and {other}: {form}')
        if form != 'boxes':
            for name, partner in {one: other, other: one}.items():
                partners.setdefault((name, form), []).append(partner)
    rows = dict.fromkeys((', '.join(with_), FORMS[form]) for (_, form), with_ in partners.items())
    return '\n'.join(
        ['| with each other | compared by |', '|---|---|', *(f'| {w} | {f} |' for w, f in rows)]
    )


def table(names: Sequence[str], steps: int = 3, tell: Callable[[str], Any] = print) -> str:
    """Try all pairs, also of each detector with itself, and return the documentation's table.

    Args:
        names: Of `DETECTORS`.
        steps: Measured steps of each pair.
        tell: Called with a line on each pair.

    Raises:
        ConfigError: If a pair does not work.
    """
    alone = {name: try_detectors(name, steps=steps).seconds for name in names}
    forms: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    for one, other in pairs(names):
        found = try_detectors(one, other, steps=steps)
        cost = found.seconds / (alone[one] + alone[other])
        tell(f'{one} and {other}: {found.form}, {cost:.2f}, {found.terms}')
        for name, partner in {one: other, other: one}.items():
            forms[name].setdefault(found.form, []).append(partner)
            costs[name].append(cost)
    rows = ['| detector | compared by | with | step |', '|---|---|---|---|']
    for name in names:
        exact = [
            f'{FORMS[form]} | {"all of them" if partners == list(names) else ", ".join(partners)}'
            for form, partners in forms[name].items()
            if form != 'boxes'
        ]
        share = f'{median(costs[name]):.2f} ({min(costs[name]):.2f} to {max(costs[name]):.2f})'
        rows.append(f'| {name} | {"; ".join(exact)} | {share} |')
    return '\n'.join(rows)
