import os
import subprocess
import sys


def doctor(toolkit, *folders):
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join(map(str, folders)), OMP_NUM_THREADS='1'
    )
    return subprocess.run(
        [sys.executable, str(toolkit.ROOT / 'tools/doctor.py')],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def distribution(folder, name, version, requires=()):
    """Make `name` look installed for importlib.metadata."""
    info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir(parents=True)
    lines = [
        'Metadata-Version: 2.1',
        f'Name: {name}',
        f'Version: {version}',
        *(f'Requires-Dist: {r}' for r in requires),
    ]
    (info / 'METADATA').write_text('\n'.join(lines) + '\n')


def module(folder, name, text):
    (folder / name).mkdir(parents=True)
    (folder / name / '__init__.py').write_text(text)


def test_nothing_is_wrong_here(toolkit):
    done = doctor(toolkit)
    assert done.returncode == 0, done.stdout
    for part in ('python', 'torch', 'mmengine', 'mmcv ops', 'mmdet', 'mmkd', 'registry'):
        assert f'  ok     {part}: ' in done.stdout
    assert 'no fault found' in done.stdout


def test_every_fault_is_told(toolkit, tmp_path):
    """Ops of another torch, both families, a wrong pair, an old version, a library that crashes."""
    module(tmp_path, 'mmcv/ops', "raise ImportError('_ext.so: undefined symbol: _ZN3c10')")
    (tmp_path / 'mmcv/__init__.py').write_text('')
    distribution(tmp_path, 'mmengine', '0.10.4')
    distribution(tmp_path, 'torchvision', '0.20.0', ['numpy', 'torch==2.5.0'])
    distribution(tmp_path, 'onedl-mmdetection', '3.0.0')
    module(tmp_path, 'ensemble_boxes', 'import os; os.abort()')
    done = doctor(toolkit, tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stdout + done.stderr
    assert 'FAULT  mmcv ops: ImportError: _ext.so: undefined symbol' in done.stdout
    assert '--no-build-isolation' in done.stdout and 'MMCV_WITH_OPS=1' in done.stdout
    assert (
        'FAULT  mmengine: both onedl-mmengine' in done.stdout
        and 'uninstall -y onedl-mmengine mmengine' in done.stdout
    )
    assert 'FAULT  torchvision: 0.20.0 goes with torch 2.5.0' in done.stdout
    assert 'onedl-mmdetection 3.0.0 is older than 3.5.1' in done.stdout
    assert 'FAULT  ensemble_boxes' in done.stdout and 'pip install ensemble-boxes' in done.stdout
    assert '  ok     pycocotools' in done.stdout  # comes after the one that crashes
    assert 'fault(s): ' in done.stdout.splitlines()[-1]
