"""In processes of their own: what is imported once stays so."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

# What torchvision does when it is imported: it loads its extension if it can, and registers its
# operators' shapes.
LIKE_TORCHVISION = """import torch
from pathlib import Path
try:
    torch.ops.load_library(str(Path(__file__).parent / '_C.so'))
except OSError:
    pass
torch.library.register_fake('torchvision::nms')(lambda *a: None)
torch.library.register_fake('torchvision::qnms')(lambda *a: None)
"""
CODE = """import runpy, sys, warnings
shim = runpy.run_path(sys.argv[1])
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    shim['install'](); shim['install']()
    import torchvision
    print(torchvision.__file__, len([w for w in told if 'torchvision' in str(w.message)]))
"""


def run(toolkit, folder, text, extension=None):
    (folder / 'torchvision').mkdir()
    (folder / 'torchvision/__init__.py').write_text(text)
    if extension is not None:
        (folder / 'torchvision/_C.so').write_bytes(extension)
    return subprocess.run(
        [sys.executable, '-S', '-c', CODE, str(toolkit.ROOT / 'mmkd/utils/torchvision_shim.py')],
        capture_output=True,
        text=True,
        timeout=120,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), *sys.path])),
    )


@pytest.mark.skipif(
    '+cpu' not in importlib.metadata.version('torch'), reason='for a CPU-only torch'
)
def test_operators_are_declared_where_the_extension_cannot_be_loaded(toolkit, tmp_path):
    done = run(toolkit, tmp_path, LIKE_TORCHVISION, b'no library')
    assert done.returncode == 0, done.stderr[-1000:]
    path, told = done.stdout.split()
    assert path.startswith(str(tmp_path)) and told == '1'


def test_a_working_torchvision_is_left_alone(toolkit, tmp_path):
    done = run(toolkit, tmp_path, '')
    assert done.returncode == 0 and done.stdout.split()[1] == '0', done.stderr[-1000:]


def test_another_fault_of_torchvision_is_not_hidden(toolkit, tmp_path):
    done = run(toolkit, tmp_path, "raise RuntimeError('something else')")
    assert done.returncode != 0 and 'something else' in done.stderr
