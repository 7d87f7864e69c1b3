"""In processes of their own: what is imported once stays so."""
import os
import subprocess
import sys

BROKEN = '''import torch
torch.library.register_fake('torchvision::nms')(lambda *a: None)
torch.library.register_fake('torchvision::qnms')(lambda *a: None)
'''


def run(toolkit, folder, code):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), str(toolkit.ROOT)]))
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment, timeout=120)


def fake_torchvision(folder, text):
    (folder / 'torchvision').mkdir()
    (folder / 'torchvision/__init__.py').write_text(text)
    (folder / 'torchvision-9.9.dist-info').mkdir()
    (folder / 'torchvision-9.9.dist-info/METADATA').write_text('Metadata-Version: 2.1\nName: torchvision\nVersion: 9.9\n')


CODE = '''import importlib.util, warnings
spec = importlib.util.spec_from_file_location('shim', 'mmkd/utils/torchvision_shim.py')
shim = importlib.util.module_from_spec(spec); spec.loader.exec_module(shim)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    print(shim.complete_torchvision(), shim.complete_torchvision(), len([w for w in told if 'torchvision' in str(w.message)]))
'''


def test_missing_operators_are_declared_once(toolkit, tmp_path):
    fake_torchvision(tmp_path, BROKEN)
    code = CODE.replace("'mmkd/", f"'{toolkit.ROOT}/mmkd/")
    done = run(toolkit, tmp_path, code)
    assert done.stdout.split() == ['True', 'False', '1'], done.stderr[-1000:]


def test_a_working_torchvision_is_left_alone(toolkit, tmp_path):
    fake_torchvision(tmp_path, '')
    done = run(toolkit, tmp_path, CODE.replace("'mmkd/", f"'{toolkit.ROOT}/mmkd/"))
    assert done.stdout.split() == ['False', 'False', '0'], done.stderr[-1000:]


def test_another_fault_of_torchvision_is_not_hidden(toolkit, tmp_path):
    fake_torchvision(tmp_path, "raise RuntimeError('something else')")
    done = run(toolkit, tmp_path, CODE.replace("'mmkd/", f"'{toolkit.ROOT}/mmkd/"))
    assert done.returncode != 0 and 'something else' in done.stderr
