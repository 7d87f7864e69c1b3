"""Parts of a training's page; tests/test_tools/test_run_tools.py makes a whole one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmkd.apis import report_page


def test_every_number_measured_is_a_row():
    metrics = {'a/mDice': np.float32(0.5), 'ensemble/mDice': 1.0, 'a/text': 'no', 'time': 3.0}
    assert report_page.metric_rows(metrics, ['a', 'b', 'ensemble']) == [
        ['metric', 'a', 'b', 'ensemble'],
        ['mDice', '0.500', '-', '1.000'],
    ]


def test_the_worst_images_come_first(monkeypatch):
    scores = [0.5, 0.1, 0.9, 0.3, 0.7]
    monkeypatch.setattr(report_page, 'case_score', lambda model, dataset, index: scores[index])
    places = [index for index, _ in report_page.best_and_worst(None, range(5), 4)]
    assert places == [1, 3, 4, 2]
    assert len(report_page.best_and_worst(None, range(5), 9)) == 5


@pytest.mark.parametrize(
    'prediction, truth, expected',
    [
        (
            dict(
                pred_instances=InstanceData(
                    bboxes=torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 9, 9]]),
                    scores=torch.tensor([0.5, 0.9, 0.1]),
                )
            ),
            dict(pred_instances=InstanceData(bboxes=torch.tensor([[0.0, 0, 10, 11]]))),
            2 / 3,
        ),
        (
            dict(pred_sem_seg=PixelData(data=torch.tensor([[[1, 1, 0, 1]]]))),
            dict(pred_sem_seg=PixelData(data=torch.tensor([[[1, 0, 0, 255]]]))),
            2 / 3,
        ),
        (dict(pred_score=torch.tensor([0.2, 0.8])), dict(pred_label=torch.tensor([0])), 0.2),
    ],
)
def test_how_good_the_ensemble_is_on_an_image(prediction, truth, expected):
    sample, gt = BaseDataElement(), BaseDataElement()
    sample.set_data(prediction)
    gt.set_data(truth)
    model = SimpleNamespace(
        predict_members=lambda data, names: dict(ensemble=[sample]),
        task=SimpleNamespace(drawing=SimpleNamespace(gt_of=lambda *args: gt)),
    )
    dataset = [dict(inputs=None, data_samples=None)]
    assert report_page.case_score(model, dataset, 0) == pytest.approx(expected)
