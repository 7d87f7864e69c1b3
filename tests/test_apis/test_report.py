"""What a report's table says, and the config that it goes by."""

import os
import shutil

import numpy as np
import pytest
import torch

from mmkd.apis.exporting import config_of_run
from mmkd.apis.report import complexity, compression, curve_metric, table_columns, training_cost
from mmkd.apis.testing import _rows_and_columns
from mmkd.utils.errors import ConfigError

CONFIG = """model = dict(
    type='mmkd.OnlineDistiller',
    members=dict(
        teacher=dict(config=dict(type='Net'), training='frozen', checkpoint='teacher.pth'),
        student1=dict(config=dict(type='Net'))))
"""


def test_a_larger_student_is_said_to_be_larger():
    figures = dict(teacher=(4.0, 0.02), small=(2.0, 0.005), large=(6.0, 0.0))
    assert compression(figures, ['small', 'large'], 'teacher') == [
        'small: 2.0 times fewer parameters and 4.0 times fewer FLOPs than teacher',
        'large: 1.5 times more parameters than teacher',
    ]


@pytest.mark.parametrize('names', [('YOLOX', 'Faster R-CNN'), ('DINO', 'SOLOv2')])
def test_the_size_of_networks_that_ask_for_the_images_sample(names, monkeypatch):
    from mmkd.apis import detector_pairs

    model = detector_pairs.build(*names).eval()
    found = model.data_preprocessor(detector_pairs.batch(masks=True), False)
    image, samples = found['inputs'][:1], found['data_samples'][:1]
    figures = complexity(model, ['a', 'b', 'ensemble'], image, samples)
    assert list(figures) == ['a', 'b', 'ensemble']
    assert all(parameters > 0 and flops > 0 for parameters, flops in figures.values())
    assert figures['ensemble'][1] == pytest.approx(figures['a'][1] + figures['b'][1])

    def fails(*args, **kwargs):
        raise TypeError('no batch_data_samples')

    monkeypatch.setattr(model.network('b'), '_forward', fails)
    with pytest.warns(UserWarning, match='b: its FLOPs are not counted: no batch_data_samples'):
        left = complexity(model, ['a', 'b'], image, samples)
    assert left == {
        'a': figures['a'],
        'b': (figures['b'][0], None),
        'ensemble': (figures['ensemble'][0], None),
    }


def test_one_figure_under_two_names_is_one_column():
    metrics = {f'a/{name}': np.float64(1) for name in ('mDice', 'mFscore', 'mIoU')}
    assert list(table_columns(metrics, ['a'])) == ['mIoU', 'mDice']
    assert list(table_columns({'a/mFscore': 0.5}, ['a'])) == ['mFscore']
    polyp = {'a/mDice': 0.5, 'a/polyp/dice': 0.4, 'a/polyp/best_f1': 0.3}
    assert table_columns(polyp, ['a']) == {'polyp/dice': 'polyp Dice', 'mDice': 'mDice'}
    assert list(table_columns({'a/own': 0.5, 'a/text': 'x'}, ['a'])) == ['own']


def test_over_several_sets_the_table_has_seen_unseen_and_gap():
    """The sets themselves, five of them often, would make it 30 columns wide."""
    metrics = {
        f'a/{part}/polyp/{figure}': 0.5
        for part in ('Kvasir', 'CVC-300', 'seen', 'unseen', 'gap')
        for figure in ('hd95', 'iou', 'dice', 'precision')
    }
    metrics['ensemble/agreement'] = 0.5
    assert table_columns(metrics, ['a', 'ensemble']) == {
        'seen/polyp/dice': 'seen polyp Dice',
        'unseen/polyp/dice': 'unseen polyp Dice',
        'gap/polyp/dice': 'gap polyp Dice',
        'seen/polyp/iou': 'seen polyp IoU',
        'unseen/polyp/iou': 'unseen polyp IoU',
        'gap/polyp/iou': 'gap polyp IoU',
    }
    own = {f'a/{part}/own': 0.5 for part in ('one', 'seen', 'unseen', 'gap')}
    assert list(table_columns(own, ['a'])) == ['seen/own', 'unseen/own', 'gap/own']


@pytest.mark.parametrize(
    'columns, val, expected',
    [
        (['mIoU', 'mDice'], ['a/mDice', 'a/mIoU'], 'mIoU'),
        (['seen/polyp/dice'], ['a/polyp/iou', 'a/polyp/dice'], 'polyp/dice'),
        (['seen/polyp/dice'], ['a/seen/polyp/dice', 'a/polyp/dice'], 'seen/polyp/dice'),
        (['polyp/dice'], ['data_time', 'b/mIoU', 'a/own', 'a/mDice'], 'mDice'),
        (['polyp/dice'], ['a/own'], 'own'),
        ([], [], 'metric of the validation'),
    ],
)
def test_the_curves_metric_is_one_of_the_validation(columns, val, expected):
    assert curve_metric(columns, dict.fromkeys(val, {1: 0.5}), ['a']) == expected


def test_what_a_step_cost_is_said_as_far_as_it_is_logged():
    assert training_cost({}) == []
    time = {1: 9.0, 2: 0.5, 3: 0.25}
    assert training_cost(dict(time=time)) == [
        'a step of the training: 0.5 s (medians of the log); GPU memory not logged'
    ]
    more = dict(data_time={1: 0.1}, memory={1: 900, 2: 1200, 3: 1100})
    assert training_cost(dict(time=time, **more)) == [
        'a step of the training: 0.5 s, 0.1 s of it waiting for data (medians of the log); '
        'at most 1200 MB of GPU memory'
    ]


def test_metrics_that_are_no_numbers_are_in_no_table():
    metrics = {
        'a/top1': 50.0,
        'a/confusion_matrix/result': torch.eye(3),
        'a/table': 'x',
        'b/top1': np.float32(1),
    }
    numbers, rows, columns = _rows_and_columns(metrics, ['a', 'b'])
    assert set(numbers) == {'a/top1', 'b/top1'} and rows == ['a', 'b']
    assert columns == dict(top1='top1')


def test_a_moved_work_folder_with_other_python_files(tmp_path):
    """A plain export and a program, newer than the training's config, lie beside it."""
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'config.py').write_text(CONFIG)
    (work / 'student1.py').write_text("model = dict(type='Net')\n")
    (work / 'plot.py').write_text("open('ran', 'w')\n")
    for age, name in enumerate(('plot.py', 'student1.py', 'config.py')):
        os.utime(work / name, (10_000 - age, 10_000 - age))
    moved = tmp_path / 'elsewhere'
    shutil.move(work, moved)
    content = dict(state_dict={'members.student1.w': torch.zeros(1)})
    assert list(config_of_run(moved, content, 'x').model.members) == ['teacher', 'student1']
    assert not list(tmp_path.rglob('ran'))
    (moved / 'config.py').unlink()
    with pytest.raises(ConfigError, match=r"x \(.*plot.py.*\) with the members \['student1'\]"):
        config_of_run(moved, content, 'x')
