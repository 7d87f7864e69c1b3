"""Prediction readers against what the heads' own `predict_by_feat` makes of the same output."""

from types import MethodType

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from mmkd.export.onnx_boxes import boxes_of
from mmkd.export.onnx_graph import DetectionGraph
from mmkd.tasks.detection.readers import prediction_reader, reader_of
from mmkd.utils.errors import ConfigError

CLASSES, CHANNELS, STRIDES = 3, 16, [8, 16]
SIZES = [(6, 5), (3, 3)]
ANCHORS = dict(
    type='AnchorGenerator',
    scales_per_octave=2,
    octave_base_scale=4,
    ratios=[0.5, 1.0, 2.0],
    strides=STRIDES,
)
ONE_ANCHOR = dict(
    type='AnchorGenerator',
    ratios=[1.0],
    octave_base_scale=8,
    scales_per_octave=1,
    strides=STRIDES,
)
DELTAS = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
QUALITY = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0)
GN = dict(type='GN', num_groups=4, requires_grad=True)
WIDTHS = dict(in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=1)
HEADS = dict(
    yolox=dict(type='YOLOXHead', strides=STRIDES, **WIDTHS),
    rtmdet=dict(
        type='RTMDetHead',
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=STRIDES),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=QUALITY,
        norm_cfg=dict(type='BN'),
        with_objectness=True,
        **WIDTHS,
    ),
    retinanet=dict(
        type='RetinaHead', anchor_generator=ANCHORS, bbox_coder=DELTAS, loss_cls=FOCAL, **WIDTHS
    ),
    free_anchor=dict(
        type='FreeAnchorRetinaHead',
        anchor_generator=ANCHORS,
        bbox_coder=DELTAS,
        **WIDTHS,
    ),
    fsaf=dict(
        type='FSAFHead',
        reg_decoded_bbox=True,
        anchor_generator=ONE_ANCHOR,
        bbox_coder=dict(type='TBLRBBoxCoder', normalizer=4.0),
        loss_cls=FOCAL,
        **WIDTHS,
    ),
    ssd=dict(
        type='SSDHead',
        in_channels=(CHANNELS, CHANNELS),
        anchor_generator=dict(
            type='SSDAnchorGenerator',
            scale_major=False,
            min_sizes=[16, 32],
            max_sizes=[32, 48],
            strides=STRIDES,
            ratios=[[2], [2, 3]],
        ),
        bbox_coder=DELTAS,
        train_cfg=ConfigDict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5),
            smoothl1_beta=1.0,
            neg_pos_ratio=3,
        ),
    ),
    yolof=dict(
        type='YOLOFHead',
        in_channels=CHANNELS,
        reg_decoded_bbox=True,
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], scales=[1, 2, 4], strides=STRIDES[:1]
        ),
        bbox_coder=dict(DELTAS, add_ctr_clamp=True, ctr_clamp=32),
        loss_cls=FOCAL,
    ),
    atss=dict(
        type='ATSSHead',
        anchor_generator=ONE_ANCHOR,
        bbox_coder=DELTAS,
        norm_cfg=GN,
        loss_cls=FOCAL,
        **WIDTHS,
    ),
    paa=dict(
        type='PAAHead',
        anchor_generator=ONE_ANCHOR,
        bbox_coder=DELTAS,
        norm_cfg=GN,
        loss_cls=FOCAL,
        score_voting=False,
        **WIDTHS,
    ),
    ddod=dict(
        type='DDODHead',
        anchor_generator=ONE_ANCHOR,
        bbox_coder=DELTAS,
        norm_cfg=GN,
        loss_cls=FOCAL,
        loss_iou=dict(type='CrossEntropyLoss', use_sigmoid=True),
        **WIDTHS,
    ),
    gfl=dict(type='GFLHead', anchor_generator=ONE_ANCHOR, norm_cfg=GN, loss_cls=QUALITY, **WIDTHS),
    fcos=dict(type='FCOSHead', strides=STRIDES, norm_cfg=GN, **WIDTHS),
    fcos_normed=dict(
        type='FCOSHead',
        strides=STRIDES,
        norm_cfg=GN,
        norm_on_bbox=True,
        centerness_on_reg=True,
        regress_ranges=((-1, 64), (64, 1e8)),
        **WIDTHS,
    ),
    auto_assign=dict(type='AutoAssignHead', strides=STRIDES, norm_cfg=GN, **WIDTHS),
    centernet2=dict(
        type='CenterNetUpdateHead',
        strides=STRIDES,
        norm_cfg=GN,
        regress_ranges=((-1, 64), (64, 1e8)),
        loss_cls=dict(type='GaussianFocalLoss', pos_weight=0.25, neg_weight=0.75),
        **WIDTHS,
    ),
    vfnet=dict(
        type='VFNetHead',
        strides=STRIDES,
        regress_ranges=((-1, 64), (64, 1e8)),
        norm_cfg=GN,
        anchor_generator=dict(ONE_ANCHOR, center_offset=0.0),
        loss_cls=dict(type='VarifocalLoss', use_sigmoid=True),
        **WIDTHS,
    ),
    tood=dict(
        type='TOODHead',
        anchor_type='anchor_free',
        num_dcn=0,
        anchor_generator=ONE_ANCHOR,
        bbox_coder=DELTAS,
        norm_cfg=GN,
        initial_loss_cls=dict(type='FocalLoss', use_sigmoid=True, activated=True),
        loss_cls=dict(QUALITY, activated=True),
        **dict(WIDTHS, stacked_convs=2),
    ),
    yolov3=dict(
        type='YOLOV3Head',
        in_channels=[CHANNELS, CHANNELS],
        out_channels=[CHANNELS, CHANNELS],
        featmap_strides=STRIDES,
        anchor_generator=dict(
            type='YOLOAnchorGenerator',
            base_sizes=[[(10, 13), (16, 30)], [(30, 61), (62, 45)]],
            strides=STRIDES,
        ),
    ),
)
# Every prediction stays, as it is.
TEST_CFG = ConfigDict(
    nms_pre=10**6,
    min_bbox_size=-1,
    score_thr=-1.0,
    conf_thr=-1.0,
    max_per_img=10**6,
    nms=dict(type='nms', iou_threshold=1.0),
)
META = dict(img_shape=(4096, 4096), ori_shape=(4096, 4096), scale_factor=(1.0, 1.0))


def build(kind, **changes):
    torch.manual_seed(1)
    head = MODELS.build(
        dict(HEADS[kind], num_classes=CLASSES, test_cfg=TEST_CFG, _scope_='mmdet', **changes)
    )
    for name, parameter in head.named_parameters():  # outputs that differ between positions
        if 'scales' not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return head.double().eval()


def features(levels):
    generator = torch.Generator().manual_seed(2)
    return tuple(
        torch.randn(2, CHANNELS, *size, generator=generator, dtype=torch.float64)
        for size in SIZES[:levels]
    )


def output_of(head):
    return head(features(1 if type(head).__name__ == 'YOLOFHead' else 2))


def predicted(head, output):
    """What the head predicts of its output: every position and class, best first."""
    if type(head).__name__ == 'SSDHead':
        head.loss_cls = None  # mmdet asks for it in predicting, and its SSD has none
    if type(head).__name__ == 'PAAHead':  # which votes on boxes: as its base classes predict
        for name in ('_predict_by_feat_single', '_bbox_post_process'):
            setattr(head, name, MethodType(getattr(BaseDenseHead, name), head))
        predict = MethodType(BaseDenseHead.predict_by_feat, head)
    else:
        predict = head.predict_by_feat
    return predict(*output, batch_img_metas=[META, META], cfg=TEST_CFG, with_nms=False)


@pytest.mark.parametrize('kind', HEADS)
def test_scores_and_boxes_are_those_of_the_heads_own_prediction(kind):
    head = build(kind)
    prediction = reader_of(head, 'x')(head, output_of(head))
    assert prediction.boxes.shape[:2] == prediction.cls_logits.shape[:2]
    scores = prediction.cls_logits.double().sigmoid()
    if prediction.obj_logits is not None:
        scores = scores * prediction.obj_logits.double().sigmoid()[..., None]
    # Coders cut boxes at the image's border, here at 0 alone.
    uncut = kind in ('yolox', 'yolov3', 'tood')
    for one, boxes, found in zip(
        scores, prediction.boxes.double(), predicted(head, output_of(head))
    ):
        if kind == 'yolox':  # the best class of each position, in order
            one, labels = one.max(1)
            positions = torch.arange(len(one))
        else:
            one, order = one.flatten().sort(descending=True)
            positions, labels = order // CLASSES, order % CLASSES
            found = found[found.scores.argsort(descending=True)]
        torch.testing.assert_close(one, found.scores.double(), rtol=1e-4, atol=1e-6)
        assert torch.equal(labels, found.labels)
        boxes = boxes[positions] if uncut else boxes[positions].clamp(min=0)
        torch.testing.assert_close(boxes, found.bboxes.double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('kind', HEADS)
def test_training_and_eval_mode_read_alike_and_a_gradient_flows(kind):
    """VFNet and FCOS give other things in training."""
    head = build(kind)
    reader = reader_of(head, 'x')
    expected = reader(head, output_of(head))
    for module in head.modules():
        if not isinstance(module, torch.nn.BatchNorm2d):
            module.training = True
    actual = reader(head, output_of(head))
    torch.testing.assert_close(actual.cls_logits, expected.cls_logits)
    torch.testing.assert_close(actual.boxes, expected.boxes)
    assert actual.requires_grad and actual.boxes.requires_grad
    actual.boxes.sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


def test_centers_are_where_centernet_predicts_them():
    """CenterNet itself keeps local maxima alone, here the best 5 of each image."""
    config = dict(
        type='CenterNetHead',
        in_channels=CHANNELS,
        feat_channels=CHANNELS,
        num_classes=CLASSES,
        test_cfg=ConfigDict(topk=5, local_maximum_kernel=3, max_per_img=5),
        _scope_='mmdet',
    )
    torch.manual_seed(1)
    head = MODELS.build(config)
    head.wh_head[-1].bias.data += 5  # no boxes inside out
    output = head(tuple(level.float() for level in features(1)))
    prediction = reader_of(head, 'x')(head, output)
    meta = dict(batch_input_shape=(6 * 4, 5 * 4), border=(0, 0, 0, 0), scale_factor=(1.0, 1.0))
    found = head.predict_by_feat(*output, batch_img_metas=[meta, meta], rescale=False)
    for scores, boxes, each in zip(prediction.class_scores, prediction.boxes, found):
        assert len(each) == 5
        for box, score, label in zip(each.bboxes, each.scores, each.labels):
            place = (scores[:, label] - score).abs().argmin()
            torch.testing.assert_close(scores[place, label], score)
            torch.testing.assert_close(boxes[place], box)


def test_instance_heads_are_read_without_their_masks():
    ins = dict(
        HEADS['rtmdet'],
        type='RTMDetInsSepBNHead',
        share_conv=True,
        with_objectness=False,
        norm_cfg=dict(type='BN'),
        num_classes=CLASSES,
        _scope_='mmdet',
    )
    head = MODELS.build(ins).double()
    classes, distances, kernels, masks = head(features(2))
    prediction = reader_of(head, 'x')(head, (classes, distances, kernels, masks))
    assert prediction.cls_logits.shape == (2, 6 * 5 + 3 * 3, CLASSES)
    first = distances[0][0, :, 1, 2].clamp(min=0)  # row 1, column 2: the point (16, 8)
    expected = torch.tensor([16.0, 8, 16, 8]) + first * torch.tensor([-1, -1, 1, 1])
    torch.testing.assert_close(prediction.boxes[0, 5 + 2].double(), expected)


@pytest.mark.parametrize('exp_on_reg', [False, True])
def test_boxes_of_rtmdet_are_never_inside_out(exp_on_reg):
    """The official RTMDet-tiny and -s regress without `exp`: distances may be negative."""
    config = dict(
        HEADS['rtmdet'],
        type='RTMDetSepBNHead',
        exp_on_reg=exp_on_reg,
        norm_cfg=dict(type='BN'),
        num_classes=CLASSES,
        _scope_='mmdet',
    )
    head = MODELS.build(config)
    for parameter in head.rtm_reg.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    output = head(tuple(f.float() for f in features(2)))
    assert exp_on_reg or min(d.min() for d in output[1]) < -10
    boxes = reader_of(head, 'x')(head, output).boxes
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_levels_in_another_order_are_not_compared_position_by_position():
    """As many positions, but YOLOv3's begin with the coarsest level."""

    def read(kind, sizes, **changes):
        head = build(kind, **changes)
        maps = tuple(torch.zeros(1, CHANNELS, *size, dtype=torch.float64) for size in sizes)
        return reader_of(head, 'x')(head, head(maps))

    anchors = dict(type='YOLOAnchorGenerator', base_sizes=[[(30, 61)], [(10, 13)]])
    coarse_first = read(
        'yolov3',
        SIZES[1::-1],
        anchor_generator=dict(anchors, strides=STRIDES[::-1]),
        featmap_strides=STRIDES[::-1],
    )
    one, other = read('rtmdet', SIZES[:2]), read('yolox', SIZES[:2])
    assert coarse_first.boxes.shape == one.boxes.shape
    assert not one.aligned(coarse_first, []) and not coarse_first.detach().aligned(one, [])
    assert len(one.aligned(other, [])) == len(coarse_first.aligned(coarse_first.detach(), [])) == 1


# ---------------------------------------------------------------- the registry


def test_a_subclass_has_its_bases_reader_until_it_has_its_own():
    from mmdet.models.dense_heads import RTMDetHead, YOLOXHead

    class Derived(YOLOXHead):
        pass

    class Further(Derived):
        pass

    def own(head, output):
        raise AssertionError

    assert prediction_reader.dispatch(Further) is prediction_reader.dispatch(YOLOXHead)
    prediction_reader.register(Derived, own)
    try:
        assert prediction_reader.dispatch(Further) is own
        assert prediction_reader.dispatch(YOLOXHead) is not own
        # RTMDet's head derives from ATSS's, which has a reader too.
        assert prediction_reader.dispatch(RTMDetHead).__name__ == 'read_rtmdet'
    finally:  # functools has no way to unregister
        prediction_reader.register(Derived, prediction_reader.dispatch(YOLOXHead))


@pytest.mark.parametrize('cls', ['DETRHead', 'RepPointsHead', 'YOLACTHead', 'ATSSVLFusionHead'])
def test_a_head_without_reader_is_named_with_those_that_have_one(cls):
    from mmdet.models import dense_heads

    head = torch.nn.Module()
    head.__class__ = type(cls, (getattr(dense_heads, cls),), {})
    with pytest.raises(
        ConfigError,
        match=rf"links\[0\].tap: {cls} has no reader for the 'prediction' tap; there are readers "
        'for ATSSHead, .*YOLOXHead and their subclasses',
    ):
        reader_of(head, 'links[0].tap')
    with pytest.raises(ConfigError, match=f'{cls} has no reader'):
        prediction_reader(head, None)


class Network(torch.nn.Module):
    """A head's surroundings: features that do not depend on the image."""

    def __init__(self, head):
        super().__init__()
        self.bbox_head, self.data_preprocessor = head, DetDataPreprocessor([0.0] * 3, [1.0] * 3)

    def extract_feat(self, images):
        return [
            f.float() for f in features(1 if type(self.bbox_head).__name__ == 'YOLOFHead' else 2)
        ]


@pytest.mark.parametrize('kind', sorted(set(HEADS) - {'paa'}))
def test_boxes_of_an_onnx_graph_are_those_that_the_head_predicts(kind):
    """With thresholds, a limit of candidates for each level, small boxes left out, and NMS."""
    head = build(kind).float()
    if kind == 'ssd':
        head.loss_cls = None
    few = dict(nms_pre=7, min_bbox_size=0, max_per_img=9, nms=dict(type='nms', iou_threshold=0.6))
    head.test_cfg = ConfigDict(few, score_thr=0.1, conf_thr=0.45)
    graph = DetectionGraph(dict(student1=Network(head)))
    meta = dict(img_shape=(80, 96), ori_shape=(160, 48), scale_factor=(2.0, 0.5))
    with torch.no_grad():
        outputs = dict(zip(graph.outputs, graph(torch.zeros(2, 3, 8, 8))))
        output = head(graph.networks['student1'].extract_feat(None))
        predicted = head.predict_by_feat(*output, batch_img_metas=[meta, meta], rescale=True)
    left = 0
    for i, expected in enumerate(predicted):
        found = boxes_of(outputs, graph.metadata(), meta['ori_shape'], meta['scale_factor'], i)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=1e-4, atol=1e-3)
        assert found.labels.equal(expected.labels)
        left += len(found)
    assert left


def test_heads_with_a_way_of_their_own_to_boxes_are_not_exported():
    with pytest.raises(ConfigError, match='PAAHead cannot be exported: it has a predict_by_feat'):
        DetectionGraph(dict(student1=Network(build('paa'))))
