"""The notebooks run from top to bottom, and are stored without what they print."""

import importlib.util
import json
from pathlib import Path

import matplotlib
import pytest

# A Runner formats its config with yapf, which takes seconds.
pytestmark = pytest.mark.usefixtures('unformatted_configs')

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'docs/notebooks').glob('*.ipynb'))


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code']


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch, capsys):
    """Its cells are plain Python and run here, where the toolboxes are imported anyway.

    A kernel (nbclient) would bring 25 packages and import them once more for each notebook.
    """
    if path.stem == 'polyps_to_onnx':
        for package in ('mmseg', 'onnx', 'onnxruntime'):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matplotlib, 'use', lambda *args, **kwargs: None)
    matplotlib.pyplot.switch_backend('agg')
    names = {'__name__': '__main__'}
    for number, cell in enumerate(code_cells(path)):
        exec(compile(''.join(cell['source']), f'{path.name}, cell {number}', 'exec'), names)
    matplotlib.pyplot.close('all')
    shown = capsys.readouterr().out
    if path.stem == 'own_detector':
        assert 'mmkd in the config: False' in shown and names['found'].bboxes.shape[1] == 4
        assert names['runner'].model.network('student1').backbone.stages
        assert (tmp_path / 'work_dirs/own_detector/student1.pth').is_file()
    else:
        assert 'sequences' in shown and names['scores'].shape == (names['SIZE'],) * 2
        assert names['scores'].min() >= 0 and names['scores'].max() <= 1
    assert 'ensemble ' in shown


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_bare_and_installs_what_is_missing(path, monkeypatch):
    cells = code_cells(path)
    assert all(not cell['outputs'] and cell['execution_count'] is None for cell in cells)
    install = ''.join(cells[0]['source'])
    commands = []
    monkeypatch.setattr('subprocess.run', lambda command, **kwargs: commands.append(command))
    exec(install, {})
    assert commands == []  # mmkd is there
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    exec(install, {})
    assert [command[2:4] for command in commands] == [['pip', 'install']] * 3
    assert commands[-1][-1] == '/content/mmkd[onedl,onnx]'
