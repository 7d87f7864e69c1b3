"""Temperatures of members and the ensemble."""

import json
import math

import pytest

from mmkd.apis.calibrating import (
    calibrate,
    read_temperature,
    temperature_table,
    write_temperatures,
)
from mmkd.apis.exporting import export
from mmkd.utils.errors import ConfigError

NAMES = ['teacher', 'student1', 'student2', 'ensemble']


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_each_member_and_the_ensemble_get_a_temperature(checkpoints, tmp_path, task):
    fitted = calibrate(checkpoints[task])
    assert sorted(fitted) == sorted(NAMES)
    for one in fitted.values():
        assert 0.05 <= one.temperature <= 20 and one.count >= 6
        assert all(math.isfinite(error) and 0 <= error <= 1 for error in (one.before, one.after))
    assert temperature_table(fitted).splitlines()[0].split()[:2] == ['member', 'temperature']
    write_temperatures(fitted, tmp_path / 't.json')
    expected = fitted['ensemble'].temperature
    read = read_temperature(str(tmp_path / 't.json'), 'ensemble')
    assert read == pytest.approx(expected, abs=1e-4)
    student, file = fitted['student1'], str(tmp_path / 's.pth')
    if task == 'det':
        with pytest.raises(ConfigError, match='YOLOXHead cannot take .* product of two prob'):
            export(str(checkpoints[task]), 'student1', file, None, '2')
        return
    export(str(checkpoints[task]), 'student1', file, None, str(tmp_path / 't.json'))
    alone = calibrate(file)['student1']  # predicts what was fitted
    assert alone.count == student.count and abs(student.after - student.before) > 0.01
    assert alone.before == pytest.approx(student.after, abs=5e-3)  # other pixels of maps
    with pytest.raises(ConfigError, match='the ensemble cannot take one into its weights'):
        export(str(checkpoints[task]), 'ensemble', str(tmp_path / 'e.pth'), None, '2')


def test_wrong_temperatures(tmp_path):
    (tmp_path / 't.json').write_text(json.dumps(dict(student1=2)))
    assert read_temperature('2.5', 'any') == 2.5
    for text, expected in (
        ('0', 'above 0'),
        ('inf', 'above 0'),
        ('none.json', r'expected a number, or a file of tools/calibrate.py'),
        (str(tmp_path / 't.json'), "with 'ensemble'"),
    ):
        with pytest.raises(ConfigError, match=expected):
            read_temperature(text, 'ensemble')
