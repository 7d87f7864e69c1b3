"""What a training leaves of its command line and packages."""

import sys

import pytest

from mmkd.apis import origins
from mmkd.apis.origins import Origin, read_origins, version_rows, write_origin

LOG = """2026/11/29 22:18:23 - mmengine - INFO -
------------------------------------------------------------
System environment:
    sys.platform: linux
    Python: 3.11.7 (main, May  9 2026, 07:35:25) [GCC 12.2.0]
    PyTorch: 2.1.2+cu121
    PyTorch compiling details: PyTorch built with:
    OpenCV: 4.11.0
    MMEngine: 0.10.7
"""


def test_what_is_written_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'a config.py', '--amp'])
    write_origin(tmp_path / '20260101_000000')
    (origin,) = read_origins(tmp_path)
    assert origin.run == '20260101_000000'
    assert origin.command == "python tools/train.py 'a config.py' --amp"
    assert origin.versions == origins.versions() and {'torch', 'mmkd'} <= set(origin.versions)


def test_a_run_of_torchrun_says_so(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'x.py', '--launcher', 'pytorch'])
    monkeypatch.setenv('GROUP_WORLD_SIZE', '2')  # of nodes
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert origins.command_line().startswith('python tools/train.py')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    expected = 'torchrun --nnodes=2 --nproc-per-node=2 tools/train.py x.py --launcher pytorch'
    assert origins.command_line() == expected


def test_one_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(origins, 'is_main_process', lambda: False)
    write_origin(tmp_path / 'run')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('started', [None, '', '[]', '{"command": "x"}', '{"command": 1, "vers'])
def test_an_older_run_has_the_versions_of_its_log(tmp_path, started):
    folder = tmp_path / '20261129_221823'
    (folder / 'vis_data').mkdir(parents=True)
    (folder / 'vis_data/scalars.json').write_text('')
    if started is not None:
        (folder / 'started.json').write_text(started)
    assert read_origins(tmp_path) == [Origin('20261129_221823', None, {})]
    (folder / '20261129_221823.log').write_text(LOG)
    (origin,) = read_origins(tmp_path)
    assert origin.versions == dict(Python='3.11.7', torch='2.1.2+cu121', mmengine='0.10.7')


def test_tests_in_the_work_folder_are_no_runs_of_the_training(tmp_path):
    (tmp_path / '20260102/vis_data').mkdir(parents=True)
    (tmp_path / '20260102/20260102.log').write_text(LOG)
    assert read_origins(tmp_path) == []


def test_versions_of_training_and_page_stand_apart():
    runs = [
        Origin('1', None, dict(torch='2.1')),
        Origin('2', None, dict(torch='2.1')),
        Origin('3', None, {}),
        Origin('4', 'python train.py', dict(torch='2.2', numpy='1')),
    ]
    assert version_rows(runs, dict(torch='2.13', mmcv='2.2')) == [
        ['package', 'training (1)', 'training (4)', 'this page'],
        ['torch', '2.1', '2.2', '2.13'],
        ['numpy', 'not known', '1', '-'],  # `-`: not installed
        ['mmcv', 'not known', '-', '2.2'],
    ]
    assert version_rows([], dict(torch='2')) == [
        ['package', 'training', 'this page'],
        ['torch', 'not known', '2'],
    ]
