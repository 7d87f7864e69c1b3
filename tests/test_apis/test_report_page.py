"""Parts of a training's page; tests/test_tools/test_run_tools.py makes a whole one."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmkd.apis import report_page
from mmkd.models.weights.base import Measurement
from mmkd.schedules import Trapezoid

FITTED = dict(type='GradientShare', share=0.2)
UNTIL = dict(type='Until', end=0.5, schedule=dict(type='Linear', end_value=2.0))


@pytest.fixture(scope='module')
def links():
    """A link with a fitted weight, which measures, and one with a schedule, which does not."""
    from conftest import make_distiller, members

    model = make_distiller(
        init=False,
        members=members(teacher=False),
        links=[
            dict(source='student1', target='student2', weight=FITTED, guard='log'),
            dict(source='student2', target='student1', weight=3.0, schedule=UNTIL),
        ],
    )
    return list(model.links)


SHARE = 'student2/share_kd[student1:prediction]'
COSINE = 'student2/cosine_kd[student1:prediction]'


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


def test_links_say_their_options_and_what_was_measured(links):
    head, fitted, scheduled = report_page.link_rows(links, {SHARE: {40: 0.25, 20: 0.1}})
    fitted, scheduled = dict(zip(head, fitted)), dict(zip(head, scheduled))
    assert fitted['weight'] == 'GradientShare(share=0.2), fitted: not measured'
    assert fitted['schedule'] == 'Constant(value=1.0)' and fitted['guard'] == 'log'
    assert (fitted['share'], fitted['cosine']) == ('0.25', 'not measured')
    assert scheduled['weight'] == '3.0' and scheduled['guard'] == '-'
    assert scheduled['schedule'] == (
        'Until(end=0.5, schedule=Linear(start_value=0.0, end_value=2.0, begin=0.0, end=1.0))'
    )
    assert (scheduled['share'], scheduled['cosine']) == ('not measured', 'not measured')


def test_a_fitted_weight_is_that_of_the_checkpoint(links):
    link = copy.deepcopy(links[0])
    link.rule.update(Measurement(task_norm=3.0, link_norm=2.0, cosine=None))
    rows = report_page.link_rows([link], {})
    assert rows[1][4] == 'GradientShare(share=0.2), fitted: 0.3'


def test_shares_and_cosines_are_drawn_apart_from_terms(links):
    pytest.importorskip('plotly')
    term = 'student2/loss_kd[student1:prediction]'
    train = {'student1/loss': {1: 1.0}, term: {1: 0.5}, SHARE: {1: 0.1}, COSINE: {1: -0.2}}
    pieces = report_page.curves(train, {}, ['student1', 'student2'], links)
    # plotly writes the names' slashes as escapes
    shown = [
        [name for name in (term, SHARE, COSINE) if name.partition('/')[2] in piece]
        for piece in pieces
    ]
    assert shown == [[], [term], [SHARE], [COSINE], [term]]
    assert 'weight x schedule' in pieces[-1] and '% of the training' in pieces[-1]
    assert report_page.curves({}, {}, ['student1'], links) == []


def test_weights_follow_their_schedules(links):
    drawn = report_page.weights_over_training(links)
    fitted = drawn['student2/loss_kd[student1:prediction]']
    scheduled = drawn['student1/loss_kd[student2:prediction]']
    assert set(fitted.values()) == {1.0} and list(fitted) == list(range(101))
    assert (scheduled[0], scheduled[25], scheduled[50]) == (0, 1.5, 0)
    assert report_page.weights_over_training(links[:1]) == {}


def test_a_schedule_in_iterations_is_drawn_as_in_the_training(links):
    link = copy.deepcopy(links[1])
    link.spec.schedule = Trapezoid(begin_iters=100, warmup_iters=100)
    (drawn,) = report_page.weights_over_training([link], max_iters=400).values()
    assert (drawn[24], drawn[25], drawn[50]) == (0, 0, 3)
    assert drawn[40] == pytest.approx(1.8)
