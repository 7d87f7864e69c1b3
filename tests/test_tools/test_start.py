"""What starting a tool and importing mmkd bring in."""

import subprocess
import sys

import pytest

TOOLS = [
    'benchmark',
    'build_mmcv',
    'calibrate',
    'convert_polyp',
    'convert_tiles',
    'detector_pairs',
    'doctor',
    'export_onnx',
    'export_student',
    'infer',
    'make_synthetic',
    'report',
    'study',
    'test',
    'train',
    'visualize',
]
# What is heavy, in a process where it cannot be imported.
WITHOUT = """import runpy, sys
for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'numpy', 'cv2'):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
HEAVY = (
    'matplotlib',
    'numba',
    'pandas',
    'scipy',
    'mmdet',
    'mmseg',
    'mmpretrain',
    'sklearn',
    'torchvision',
)


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize('tool', TOOLS)
def test_help_and_a_wrong_command_line_need_no_torch(toolkit, tool):
    path = toolkit.ROOT / 'tools' / f'{tool}.py'
    done = run(WITHOUT, path, '--help')
    assert done.returncode == 0 and done.stdout.startswith('usage: '), done.stderr
    done = run(WITHOUT, path, '--no-such-option')
    assert done.returncode == 2 and 'error: ' in done.stderr, done.stderr


def test_every_tool_is_listed(toolkit):
    assert sorted(path.stem for path in (toolkit.ROOT / 'tools').glob('*.py')) == TOOLS


def test_importing_mmkd_imports_nothing_heavy():
    done = run(
        'import sys, mmkd; print([m for m in ("torch", "mmengine", "numpy") if m in sys.modules])'
    )
    assert done.stdout.strip() == '[]', done.stdout + done.stderr


def test_a_distiller_imports_no_toolbox_and_what_needs_one_is_found():
    code = f"""import sys, mmkd
from mmengine.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS
assert MODELS.get('mmkd.OnlineDistiller') and LOOPS.get('mmkd.MemberValLoop')
assert MODELS.get('mmkd.KLDivergence') and HOOKS.get('mmkd.MemberHook')
assert METRICS.get('mmkd.BinaryClassification') and METRICS.get('mmkd.PolypSegMetric')
print([m for m in {HEAVY} if m in sys.modules])

from mmkd.registry import TASKS
for registry, names in (
    (MODELS, ['DenseDetectionLoss', 'DetectionEnsemble']),
    (DATASETS, ['PolypDetection', 'PolypSegmentation', 'FolderClassification']),
):
    for name in names:
        assert registry.get(f'mmkd.{{name}}').__name__ == name
assert set(TASKS.module_dict) == {{'detection', 'segmentation', 'classification'}}"""
    done = run(code)
    assert done.returncode == 0 and done.stdout.startswith('[]\n'), done.stdout + done.stderr


def test_the_help_of_the_converter_names_the_real_defaults(toolkit):
    from mmkd.datasets.converters import masks

    text = (toolkit.ROOT / 'tools/convert_polyp.py').read_text()
    assert f'{masks.SPECK_SHARE:.4f} of the area, and {masks.SPECK_PIXELS} pixels' in text


def test_a_plain_config_needs_no_toolbox_to_be_imported_before(toolkit, data, tmp_path):
    toolkit.small_config(data, tmp_path / 'work').dump(tmp_path / 'config.py')
    code = f"""from mmengine.config import Config
from mmkd.export import plain_config
cfg = Config.fromfile({str(tmp_path / 'config.py')!r})
print(plain_config(cfg, 'student1').val_dataloader.dataset.type)"""
    done = run(code)
    assert done.stdout.splitlines()[-1:] == ['CocoDataset'], done.stderr
