"""What a report's table says, and the config that it goes by."""

import os
import shutil

import numpy as np
import pytest
import torch

from mmkd.apis.exporting import config_of_run
from mmkd.apis.report import compression, table_columns
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


def test_one_figure_under_two_names_is_one_column():
    metrics = {f'a/{name}': np.float64(1) for name in ('mDice', 'mFscore', 'mIoU')}
    assert list(table_columns(metrics, ['a'])) == ['mIoU', 'mDice']
    assert list(table_columns({'a/mFscore': 0.5}, ['a'])) == ['mFscore']
    polyp = {'a/mDice': 0.5, 'a/polyp/dice': 0.4, 'a/polyp/best_f1': 0.3}
    assert table_columns(polyp, ['a']) == {'polyp/dice': 'polyp Dice', 'mDice': 'mDice'}
    assert list(table_columns({'a/own': 0.5, 'a/text': 'x'}, ['a'])) == ['own']


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
