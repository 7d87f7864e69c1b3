"""Pairs of real detectors in small forms: the docs' table, cell by cell."""

import copy
import itertools
from statistics import mean

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.structures import InstanceData

from mmkd.apis.detector_pairs import DETECTORS, MASKED, batch, build, pairs, step, try_detectors
from mmkd.tasks.detection.truth import truth_of
from mmkd.utils.errors import ConfigError

PROMISED = (
    'YOLOX',
    'RTMDet',
    'RetinaNet',
    'FCOS',
    'ATSS',
    'GFL',
    'Faster R-CNN',
    'Deformable DETR',
    'DINO',
)
slow = pytest.mark.slow
# What else a network's loss has: of masks, of DINO's denoising, of the encoder's proposals.
NOT_OF_BOXES = ('mask', 'dn_', 'enc_')


def cells(found, *fast):
    return [pytest.param(*cell, marks=() if cell in fast else slow) for cell in found]


@pytest.mark.parametrize(
    'one, other',
    cells(pairs(list(DETECTORS)), ('FCOS', 'DINO'), ('RTMDet', 'SOLOv2')),
)
def test_each_pair_builds_and_has_positive_terms_both_ways(one, other):
    found = try_detectors(one, other, steps=1)
    assert set(found.terms) == {'a/loss_ml[b:prediction]', 'b/loss_ml[a:prediction]'}
    if one == other:
        assert found.form != 'boxes'


@pytest.mark.parametrize(
    'one, other', cells(itertools.combinations(PROMISED, 2), ('RetinaNet', 'Faster R-CNN'))
)
def test_a_pair_trains_and_both_losses_fall(one, other):
    # Losses rise on the way: better proposals bring a second stage more boxes to learn from, and
    # RTMDet's labels are the overlaps of its boxes, so that it starts near 0.
    steps = 10 if (one, other) == ('RetinaNet', 'Faster R-CNN') else 60
    model, data = build(one, other, score_thr=0.02), batch()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    rows = [step(model, data, optimizer) for _ in range(steps)]
    for name, detector in dict(a=one, b=other).items():
        key = next(key for key in rows[0] if key.startswith(name) and '[' in key)
        assert all(0 <= row[key] < float('inf') for row in rows)
        assert any(row[key] > 0 for row in rows), 'a source that is never sure'
        own = [row[f'{name}/loss'] - row[key] for row in rows]
        means = [mean(own[i : i + 5]) for i in range(steps - 4)]
        assert means[-1] < 0.9 * (max(means) if detector == 'RTMDet' else means[0])


@pytest.mark.parametrize(
    'one, other', cells([('Mask R-CNN', 'FCOS'), ('Cascade R-CNN', 'DINO')], ('Mask R-CNN', 'FCOS'))
)
def test_bfloat16_on_a_cpu(one, other):
    """mmcv's NMS and RoIAlign have no bfloat16 there."""
    model, data = build(one, other), batch(bool(MASKED & {one, other}))
    with torch.autocast('cpu', torch.bfloat16):
        losses, terms = model.parse_losses(
            model(**model.data_preprocessor(data, True), mode='loss')
        )
    assert sum('[' in key and value > 0 for key, value in terms.items()) == 2
    sum(losses.values()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(n, marks=() if n in ('VFNet', 'DINO', 'CondInst', 'SOLOv2') else slow)
        for n in DETECTORS
    ],
)
def test_the_own_loss_for_the_ground_truth_is_the_members_own(name):
    model = build(name, name)
    data = model.data_preprocessor(batch(masks=name in MASKED), True)
    samples = data['data_samples']
    terms, readings = model.members.losses('b', data['inputs'], samples, ['prediction'])

    def total(*left_out):
        return sum(
            torch.as_tensor(item).mean()
            for key, value in terms.items()
            if 'loss' in key and not any(part in key for part in left_out)
            for item in (value if isinstance(value, (list, tuple)) else [value])
        )

    expected = total(*NOT_OF_BOXES)
    truth = [
        InstanceData(bboxes=s.gt_instances.bboxes, labels=s.gt_instances.labels) for s in samples
    ]
    prediction, metas = readings['b', 'prediction'].value, [s.metainfo for s in samples]
    prediction.check_own_loss()
    # Two-stage detectors draw the boxes that they learn from.
    tolerance = 0.02 if 'R-CNN' in name else 1e-5
    found = prediction.own_loss(truth, metas, [0, 1])
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
    found.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.network('b').parameters())
    alone = prediction.own_loss(truth[1:], metas, [1])
    assert alone.isfinite() and alone != found
    assert prediction.own_loss([each[:0] for each in truth], metas, [0, 1]).isfinite()
    assert prediction.has_masks == (name in MASKED)
    if name in MASKED:
        for each, given in zip(truth, batch(masks=True)['data_samples']):
            each.masks = given.gt_instances.masks.to_tensor(torch.bool, 'cpu')
        terms, readings = model.members.losses('b', data['inputs'], samples, ['prediction'])
        prediction = readings['b', 'prediction'].value
        found = prediction.own_loss(truth, metas, [0, 1])
        torch.testing.assert_close(found, total(), rtol=tolerance, atol=0)
        assert prediction.own_loss(truth[1:], metas, [1]).isfinite()
        drawn = truth_of(prediction.detach(), metas, 0.0, 0.6, 3, masks=True)
        assert all(each.masks.shape == (len(each), 128, 128) for each in drawn)
        assert not any('index' in each for each in drawn) and len(drawn[0])


@pytest.mark.parametrize(
    'name, options',
    cells(
        [
            *((name, {}) for name in sorted(MASKED)),
            *((name, dict(queries='aligned')) for name in ('DAB-DETR', 'DINO')),
        ],
        ('SOLOv2', {}),
        ('DINO', dict(queries='aligned')),
    ),
)
def test_identical_members_are_at_0(name, options):
    model, data = build(name, name, **options), batch(name in MASKED)
    terms = {key: value for key, value in step(model, data).items() if '[' in key}
    assert len(terms) == 2 and all(value > 1e-4 for value in terms.values())
    model.network('b').load_state_dict(model.network('a').state_dict())
    terms = {key: value for key, value in step(model, data).items() if '[' in key}
    assert terms == dict.fromkeys(terms, pytest.approx(0, abs=1e-6))


def test_condinst_is_not_read_without_its_mask_features():
    """As of a frozen member with `cache_mb`, which keeps what the box head returned."""
    model, data = build('CondInst', 'CondInst'), batch(masks=True)
    step(model, data)
    read = model.members.taps['b', 'prediction'].value_of
    output = model.network('b').bbox_head(
        model.network('b').extract_feat(torch.zeros(1, 3, 64, 64))
    )
    with pytest.raises(ConfigError, match='cache_mb: .* leave cache_mb out'):
        read(output)


def test_masks_of_all_kinds_are_fused_and_measured_in_one_pass():
    model, data = build(*sorted(MASKED)).eval(), batch(masks=True)
    for name, kind in itertools.product('abcd', ('bbox_head', 'mask_head', 'roi_head')):
        cfg = getattr(getattr(model.network(name), kind, None), 'test_cfg', None)
        if cfg is not None:  # hardly trained: keep some of whatever is found
            all_of_it = dict(score_thr=0.0, filter_thr=0.0, nms_pre=20)
            cfg.update({key: value for key, value in all_of_it.items() if key in cfg})
    results = model.predict_members(data)
    assert list(results) == [*'abcd', 'ensemble']
    for samples in results.values():
        found = samples[0].pred_instances
        assert found.masks.shape == (len(found), 128, 128) and len(found)
        metric = CocoMetric(metric=['bbox', 'segm'])
        metric.dataset_meta = dict(classes=('a', 'b'))
        outline = [[8, 8, 40, 8, 40, 40, 8, 40]]
        truth = dict(bbox=[8, 8, 40, 40], bbox_label=0, ignore_flag=0, mask=outline)
        metric.process({}, [dict(s.to_dict(), instances=[truth]) for s in samples])
        assert 'coco/segm_mAP' in metric.evaluate(len(samples))


@pytest.mark.parametrize('name', cells([('DINO',), ('Deformable DETR',), ('DAB-DETR',)], ('DINO',)))
def test_aligned_queries_start_at_the_sources_boxes(name):
    model = build(name, name, queries='aligned')
    data = model.data_preprocessor(batch(), True)
    values = {}
    for member in 'ab':
        found = model.members.losses(member, data['inputs'], data['data_samples'], ['prediction'])
        values[member] = found[1][member, 'prediction'].value
    target, source = values['a'], values['b'].detach()
    call = model.members.taps['a', 'prediction'].reader.keywords['call']
    copied = copy.deepcopy(model).members.taps['a', 'prediction']
    assert copied.reader.keywords['call'].recorder is copied.recorder is not call.recorder
    model.task.run_for_taps(model.network('a'), data['inputs'], data['data_samples'], ['bbox_head'])
    assert not call.inputs  # nothing is kept that no tap reads
    calls = []
    decoder = model.network('b').decoder
    inner, decoder.forward = decoder.forward, lambda **kw: calls.append(kw) or inner(**kw)
    metas = [sample.metainfo for sample in data['data_samples']]
    ((own, theirs),) = target.aligned(source, metas, 'aligned')
    order = source.cls_logits.amax(-1).argsort(descending=True)
    places = source.boxes.gather(1, order[..., None].expand(-1, -1, 4))
    (call,) = calls
    started = call['query_pos'].sigmoid() if name == 'DAB-DETR' else call['reference_points']
    torch.testing.assert_close(started, places[..., : started.shape[-1]], atol=1e-3, rtol=0)
    assert call['query'].shape[1] == 20 and call.get('self_attn_mask') is None
    assert not theirs.cls_logits.requires_grad
    (own.cls_logits.sum() + own.boxes.sum()).backward()
    grads = {n for n, p in model.network('a').named_parameters() if p.grad is not None}
    assert any(n.startswith('backbone') for n in grads)
    assert any(n.startswith('bbox_head') for n in grads)
    assert all(p.grad is None for p in model.network('b').parameters())


def test_aligned_queries_ask_for_decoders_that_start_at_boxes():
    with pytest.raises(ConfigError, match='that of DETR does not; what works: DAB-DETR.*matched'):
        build('DETR', 'DETR', queries='aligned')


def test_unknown_detectors_are_named():
    with pytest.raises(ConfigError, match="detector: unknown name 'YOLO'"):
        build('YOLO')


def test_masks_of_condinst_in_turns(toolkit):
    """A source that runs for its taps alone stops once all that a reader needs is there."""
    losses = []
    for in_turns in (False, True):
        model = build('CondInst', 'CondInst')
        model.in_turns = in_turns
        log = model.train_step(batch(masks=True), toolkit.optim_wrapper(model))
        losses.append(log['loss'])
    torch.testing.assert_close(*losses)
