"""Pairs of real detectors in small forms: the docs' table, cell by cell."""

import itertools

import pytest
import torch
from mmengine.structures import InstanceData

from mmkd.apis.detector_pairs import DETECTORS, MASKED, batch, build, pairs, step, try_detectors
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
    cells(pairs(list(DETECTORS)), ('FCOS', 'DINO')),
)
def test_each_pair_builds_and_has_positive_terms_both_ways(one, other):
    found = try_detectors(one, other, steps=1)
    assert set(found.terms) == {'a/loss_ml[b:prediction]', 'b/loss_ml[a:prediction]'}
    if one == other:
        assert found.form != 'boxes'


@pytest.mark.parametrize(
    'one, other', cells(itertools.combinations(PROMISED, 2), ('YOLOX', 'Faster R-CNN'))
)
def test_a_pair_trains_and_both_losses_fall(one, other):
    steps = 10 if (one, other) == ('YOLOX', 'Faster R-CNN') else 30
    model, data = build(one, other, score_thr=0.02), batch()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    rows = [step(model, data, optimizer) for _ in range(steps)]
    for name in 'ab':
        key = next(key for key in rows[0] if key.startswith(name) and '[' in key)
        assert all(0 <= row[key] < float('inf') for row in rows)
        assert any(row[key] > 0 for row in rows), 'a source that is never sure'
        own = [row[f'{name}/loss'] - row[key] for row in rows]
        # RTMDet's rises first: its labels are the overlaps of its boxes. That of a second stage
        # rises again, as better proposals bring more boxes to learn from.
        assert own[-1] < 0.9 * max(own[: steps // 2]) or min(own) < 0.7 * own[0]


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(n, marks=() if n in ('VFNet', 'DINO', 'RTMDet-Ins') else slow)
        for n in DETECTORS
    ],
)
def test_the_own_loss_for_the_ground_truth_is_the_members_own(name):
    model = build(name, name)
    data = model.data_preprocessor(batch(masks=name in MASKED), True)
    samples = data['data_samples']
    terms, readings = model.members.losses('b', data['inputs'], samples, ['prediction'])
    expected = sum(
        torch.as_tensor(item).mean()
        for key, value in terms.items()
        if 'loss' in key and not any(part in key for part in NOT_OF_BOXES)
        for item in (value if isinstance(value, (list, tuple)) else [value])
    )
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


def test_unknown_detectors_are_named():
    with pytest.raises(ConfigError, match="detector: unknown name 'YOLO'"):
        build('YOLO')
