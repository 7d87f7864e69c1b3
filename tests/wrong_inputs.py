"""Wrong inputs as a user makes them, run with the tools: wrong_inputs.py [ID ...] [--json FILE]

Prints a Markdown table of what was wrong and what the tool said. tests/test_wrong_inputs.py checks
it against `expected`. One process imports the libraries once; each case is a fork of it that runs a
tool from its first line.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import pkgutil
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from wrong_inputs_table import CASES, ROOT  # noqa: E402

LIMIT = 300  # seconds a case may take
ENVIRONMENT = dict(
    os.environ,
    OMP_NUM_THREADS='1',
    PYTHON=sys.executable,
    PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
)


def without_yapf():
    """Keep yapf, which takes seconds a config, out of this process."""
    api = types.ModuleType('yapf.yapflib.yapf_api')
    api.FormatCode = lambda text, *args, **kwargs: (text, True)
    for name, module in (
        ('yapf', types.ModuleType('yapf')),
        ('yapf.yapflib', types.ModuleType('yapf.yapflib')),
        ('yapf.yapflib.yapf_api', api),
    ):
        sys.modules[name] = module
    sys.modules['yapf'].__version__ = '0.43.0'


def import_all():
    """Import the toolboxes, all of mmkd and what they import late, once for all cases."""
    import mmkd

    modules = [module.name for module in pkgutil.walk_packages(mmkd.__path__, 'mmkd.')]
    modules.remove('mmkd.__main__')
    for toolbox in ('mmdet', 'mmseg', 'mmpretrain'):
        modules += [f'{toolbox}.{part}' for part in ('datasets', 'evaluation', 'models')]
    modules += ['matplotlib.pyplot', 'pycocotools.cocoeval', 'setuptools', 'sklearn.metrics']
    nothing = io.StringIO()
    with contextlib.redirect_stderr(nothing), contextlib.redirect_stdout(nothing):
        for name in modules:
            import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page


def run_forked(command, cwd):
    """Run a Python tool in a fork of this process; returns its exit status, stdout and stderr."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()
            os.chdir(cwd)
            for number, name in ((1, '.out'), (2, '.err')):
                os.dup2(os.open(cwd / name, os.O_WRONLY | os.O_CREAT), number)
            sys.stdin, sys.stdout, sys.stderr = open(os.devnull), open(1, 'w'), open(2, 'w')
            warnings.resetwarnings()  # pytest's, where a test forks
            sys.argv = [command[0], *command[1:]]
            sys.path[0] = str(ROOT / 'tools')
            runpy.run_path(str(ROOT / command[0]), run_name='__main__')
            status = 0
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    end = time.time() + LIMIT
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.time() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status = -1
            break
        time.sleep(0.01)
    out, err = ((cwd / name).read_text(errors='replace') for name in ('.out', '.err'))
    for name in ('.out', '.err'):
        (cwd / name).unlink()
    return os.waitstatus_to_exitcode(status) if status >= 0 else 'no end', out, err


def run_process(command, cwd):
    """Run a shell script, or a Python tool as a process of its own."""
    start = ['bash'] if command[0].endswith('.sh') else [sys.executable]
    done = subprocess.run(
        [*start, str(ROOT / command[0]), *command[1:]],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout, done.stderr


def message_of(stderr):
    """The part of stderr that is the tool's message: from its last `error:` on."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if 'error: ' in line]
    return '\n'.join(lines[starts[-1] :] if starts else lines[-8:])


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob('*')}


def prepare(folder):
    """Write what the cases share: `base/` with data, configs of three tasks, a trained folder."""
    import conftest
    from mmengine.config import Config

    from mmkd.datasets.converters.synthetic import write_synthetic_polyps

    base = folder / 'base'
    base.mkdir()
    with contextlib.redirect_stdout(sys.stderr):
        write_synthetic_polyps(base / 'data', train=8, val=4, size=64)
    cfg = conftest.small_config(base / 'data', 'work')
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset
    cfg.train_cfg.max_epochs = 1
    cfg.dump(base / 'det.py')
    from wrong_inputs_table import CLASSIFICATION, SEGMENTATION

    for name, text in (('seg', SEGMENTATION), ('cls', CLASSIFICATION)):
        (base / f'{name}.py').write_text(text.format(root=ROOT, data=base / 'data'))
        Config.fromfile(base / f'{name}.py')
    status, out, err = run_forked(['tools/train.py', 'det.py'], base)
    assert status == 0, err
    return base


def run_case(case, folder, base):
    """Run one case in a folder of its own; returns what came."""
    place = folder / case.id
    place.mkdir()
    for name in ('det', 'seg', 'cls'):
        (place / f'{name}.py').write_text((base / f'{name}.py').read_text())
    if case.config is not None:
        (place / 'config.py').write_text(
            f"_base_ = './{case.base}.py'\n{case.config}\n".replace('BASE', str(base))
        )
    if case.prepare is not None:
        case.prepare(place, base)
    before = files_in(place)
    start = time.time()
    run = run_process if case.process or case.command[0].endswith('.sh') else run_forked
    status, out, err = run([part.replace('BASE', str(base)) for part in case.command], place)
    new = sorted(files_in(place) - before)
    # A log folder and the config's copy are no results.
    results = [name for name in new if '__pycache__' not in name and not name.startswith('work')]
    results += [
        name
        for name in new
        if name.startswith('work') and name.endswith(('.pth', '.pkl', 'last_checkpoint'))
    ]
    hidden = [name for name in new if Path(name).name.startswith('.')]
    results += [name for name in hidden if name != 'work/.lock']  # it is locked, not removed
    ran = (place / 'ran').exists()  # what the pickle of `RunsCode` makes
    shutil.rmtree(place)
    return dict(
        id=case.id,
        status=status,
        message=message_of(err),
        out=out,
        err=err,
        left=sorted(set(results)),
        ran=ran,
        seconds=round(time.time() - start, 2),
    )


def run_number(number, folder, base):
    return run_case(CASES[number], folder, base)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('ids', nargs='*', help='cases to run (default: all)')
    parser.add_argument('--json', help='write everything that came to this file')
    args = parser.parse_args()
    without_yapf()
    import_all()
    cases = [case for case in CASES if not args.ids or case.id in args.ids]
    folder = Path(tempfile.mkdtemp(prefix='wrong_inputs_')).resolve()
    try:
        base = prepare(folder)
        with ProcessPoolExecutor(2, mp_context=get_context('fork')) as pool:
            places = [pool.submit(run_number, CASES.index(case), folder, base) for case in cases]
            results = [place.result() for place in places]
    finally:
        shutil.rmtree(folder)
    if args.json:
        Path(args.json).write_text(json.dumps(results))
        return
    print('| what was wrong | exit | what the tool said |\n|---|---|---|')
    for case, result in zip(cases, results):
        said = result['message'] if result['status'] else 'works'
        said = ' '.join(said.replace(str(folder), '...').split('\n(raised in')[0].split()).replace(
            '|', '\\|'
        )
        print(f'| {case.what} | {result["status"]} | {said} |')


if __name__ == '__main__':
    main()
