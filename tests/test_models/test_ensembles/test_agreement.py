import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmkd.models.ensembles import (
    ClassificationEnsemble,
    DetectionEnsemble,
    SegmentationEnsemble,
)


def both_ways(ensemble, one, other):
    forth, back = ensemble.agreement(one, other), ensemble.agreement(other, one)
    assert forth == pytest.approx(back)
    assert ensemble.agreement(one, one) == 1
    return forth


@pytest.mark.parametrize(
    'one, other, expected',
    [([3], [3], 1), ([3], [4], 0), ([0, 1], [1, 2], 1 / 3), ([], [1], 0), ([], [], 1)],
)
def test_of_labels(one, other, expected):
    samples = [BaseDataElement(pred_label=torch.tensor(labels).long()) for labels in (one, other)]
    assert both_ways(ClassificationEnsemble(), *samples) == pytest.approx(expected)


@pytest.mark.parametrize(
    'one, other, expected',
    [
        ([[0, 1], [1, 1]], [[0, 0], [1, 1]], (1 / 2 + 2 / 3) / 2),
        ([[0, 0], [0, 0]], [[2, 2], [2, 2]], 0),  # class 1, which neither has, does not count
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]], 1),
    ],
)
@pytest.mark.parametrize('dtype', [torch.long, torch.float])  # one channel gives floats
def test_of_maps(one, other, expected, dtype):
    pytest.importorskip('mmseg')
    samples = [
        BaseDataElement(pred_sem_seg=PixelData(data=torch.tensor([labels], dtype=dtype)))
        for labels in (one, other)
    ]
    assert both_ways(SegmentationEnsemble(), *samples) == pytest.approx(expected)


BOX, NEAR, FAR = [0.0, 0, 10, 10], [0.0, 0, 10, 8], [50.0, 50, 60, 60]


@pytest.mark.parametrize(
    'one, other, expected',
    [
        ([(BOX, 0.9, 0)], [(NEAR, 0.4, 0)], 1),
        ([(BOX, 0.9, 0)], [(NEAR, 0.4, 1)], 0),  # another class
        ([(BOX, 0.9, 0)], [(NEAR, 0.2, 0)], 0),  # not sure enough to count
        ([(BOX, 0.9, 0), (FAR, 0.9, 0)], [(NEAR, 0.4, 0)], 2 / 3),
        ([(BOX, 0.9, 0), (NEAR, 0.8, 0)], [(BOX, 0.4, 0), (FAR, 0.3, 0)], 3 / 4),
        ([(BOX, 0.1, 0)], [], 1),
        ([], [], 1),
    ],
)
def test_of_boxes(one, other, expected):
    pytest.importorskip('mmdet')
    samples = [
        BaseDataElement(
            pred_instances=InstanceData(
                bboxes=torch.tensor([box for box, _, _ in found]).reshape(-1, 4),
                scores=torch.tensor([score for _, score, _ in found]),
                labels=torch.tensor([label for _, _, label in found]).long(),
            )
        )
        for found in (one, other)
    ]
    assert both_ways(DetectionEnsemble(), *samples) == pytest.approx(expected)
