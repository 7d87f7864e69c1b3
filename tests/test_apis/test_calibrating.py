"""Temperatures of members and the ensemble."""

import argparse
import json
import math
import runpy
import sys

import numpy as np
import pytest
from conftest import ROOT
from mmengine.config import Config

from mmkd.apis.calibrating import (
    Fitted,
    calibrate,
    ensemble_options,
    read_temperature,
    temperature_table,
    write_temperatures,
)
from mmkd.apis.command_line import add_options_argument, merge_options
from mmkd.apis.exporting import export
from mmkd.apis.loading import load_trained
from mmkd.evaluation.calibration import fit_platt
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
    if task == 'det':
        assert 'weights' not in ''.join(
            ensemble_options(dict(student1=Fitted(1, 0, 0, 1, (1, 0), 0.0, True)))
        )
        for name, precision in dict(teacher=90.0, student1=40.0, student2=80.0).items():
            assert 0 <= fitted[name].ap50 <= 100
            fitted[name].ap50 = precision
    options = ensemble_options(fitted)
    if task != 'det':
        assert options == []
    else:
        # What the tool prints is what the ensemble's config takes.
        cfg = Config.fromfile(next(checkpoints[task].parent.glob('*.py')))
        parser = argparse.ArgumentParser()
        add_options_argument(parser)
        cfg = merge_options(cfg, parser.parse_args(['--cfg-options', *options]).cfg_options)
        assert set(cfg.model.ensemble.weights) == {'student1', 'student2'}
        fused = load_trained(checkpoints[task], cfg, 'all').model.ensemble
        assert fused.calibration == [
            pytest.approx(fitted[name].platt, abs=1e-4) for name in ('student1', 'student2')
        ]
        assert fused.weights == [0.5, 1.0]
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


def test_the_path_of_the_temperatures_is_checked_before_the_fit(tmp_path, monkeypatch):
    main = runpy.run_path(str(ROOT / 'tools/calibrate.py'))['main']
    monkeypatch.setattr(sys, 'argv', ['calibrate.py', 'none.pth', '--out', str(tmp_path)])
    with pytest.raises(ConfigError, match='--out: expected a file, got the folder'):
        main()


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


def test_platts_slope_and_offset_are_those_that_the_truth_was_drawn_with():
    generator = np.random.default_rng(0)
    odds = generator.normal(0, 2, 20000)
    right = generator.random(20000) < 1 / (1 + np.exp(-(0.5 * odds - 1)))
    assert fit_platt(odds, right) == pytest.approx((0.5, -1), abs=0.05)
    slope, offset = fit_platt(np.array([1.0, 2.0]), np.array([True, True]))
    assert 1 / (1 + np.exp(-(slope * 1.5 + offset))) == pytest.approx(0.75, abs=0.01)
    with pytest.raises(ConfigError, match='calibration: nothing to fit'):
        fit_platt(np.zeros(0), np.zeros(0, bool))
