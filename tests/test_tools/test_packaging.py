import shutil
import subprocess
import sys
import zipfile


def test_a_wheel_ships_configs_and_tools_and_requires_no_family(toolkit, tmp_path):
    checkout = tmp_path / 'checkout'
    shutil.copytree(
        toolkit.ROOT,
        checkout,
        ignore=shutil.ignore_patterns('.git', '.venv*', 'data', 'work_dirs', 'build', '*.egg-info'),
    )
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '-q',
            '--no-deps',
            '--no-build-isolation',
            '-w',
            str(tmp_path),
            str(checkout),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob('mmkd-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith('METADATA'))).decode()
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
    assert 'License: Apache-2.0' in metadata or 'License-Expression: Apache-2.0' in metadata
