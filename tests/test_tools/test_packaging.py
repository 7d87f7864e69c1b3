import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the checkout, which building leaves files in."""
    import conftest

    checkout = tmp_path_factory.mktemp('packaging') / 'checkout'
    ignored = ('.git', '.venv*', 'data', 'work_dirs', 'build', '*.egg-info', '.*_cache')
    shutil.copytree(conftest.ROOT, checkout, ignore=shutil.ignore_patterns(*ignored))
    return checkout


def build_wheel(source, out):
    options = ['-q', '--no-deps', '--no-build-isolation', '--no-index', '-w', str(out)]
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', *options, str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = out.glob('mmkd-*.whl')
    return wheel


def test_a_wheel_ships_configs_and_tools_and_requires_no_family(toolkit, checkout, tmp_path):
    wheel = build_wheel(checkout, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata, scripts = (
            archive.read(next(n for n in names if n.endswith(end))).decode()
            for end in ('METADATA', 'entry_points.txt')
        )
        archive.extractall(tmp_path / 'installed')
    for folder in ('configs', 'tools'):
        for path in (toolkit.ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                assert f'mmkd/.mim/{path.relative_to(toolkit.ROOT)}' in names
    required = [line for line in metadata.splitlines() if line.startswith('Requires-Dist:')]
    for line in required:
        assert 'extra ==' in line or not any(
            name in line for name in ('mmengine', 'mmcv', 'mmdet', 'torch')
        )
    assert any("extra == 'onedl'" in line or 'extra == "onedl"' in line for line in required)
    assert 'mmkd/.mim/model-index.yml' in names and 'mmkd = mmkd.__main__:main' in scripts
    assert 'License: Apache-2.0' in metadata or 'License-Expression: Apache-2.0' in metadata
    # From another folder, where the checkout is not to be seen.
    (tmp_path / 'config.py').write_text("_base_ = 'mmkd::mmkd/polyp_yolox_kd.py'")
    code = "from mmkd.apis.command_line import read_config; read_config('config.py').dump('all.py')"
    for command, expected in (
        (['-m', 'mmkd'], 'TOOL is one of benchmark, '),
        (['-m', 'mmkd', 'tran'], "error: no tool 'tran'"),
        (['-m', 'mmkd', 'train', '--help'], 'usage: train.py'),
        (['-c', f'{code}; import mmkd; print(mmkd.__file__)'], str(tmp_path / 'installed')),
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=str(tmp_path / 'installed')),
            capture_output=True,
            text=True,
        )
        assert expected in done.stdout + done.stderr, done.stderr
    assert 'kd_p' in (tmp_path / 'all.py').read_text()


def test_the_source_distribution_can_be_built_from(checkout, tmp_path):
    done = subprocess.run(
        [sys.executable, 'setup.py', '-q', 'sdist', '-d', str(tmp_path)],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (source,) = tmp_path.glob('mmkd-*.tar.gz')
    with tarfile.open(source) as archive:
        archive.extraction_filter = getattr(tarfile, 'data_filter', None)
        archive.extractall(tmp_path / 'source')
    (folder,) = (tmp_path / 'source').iterdir()
    with zipfile.ZipFile(build_wheel(folder, tmp_path)) as archive:
        names = set(archive.namelist())
    assert {
        'mmkd/py.typed',
        'mmkd/apis/report_page.html',
        'mmkd/.mim/tools/train.py',
        'mmkd/.mim/model-index.yml',
    } <= names
    for path in (checkout / 'configs').rglob('*.py'):
        assert f'mmkd/.mim/{path.relative_to(checkout)}' in names
