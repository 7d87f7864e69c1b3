"""Build mmcv with its compiled ops as a wheel, once for a torch and compiler; print its path.

    python tools/build_mmcv.py onedl-mmcv==2.3.6

Run it with the Python of the environment that mmcv goes into, which holds torch and the packages of
requirements/build.txt. Progress goes to stderr, the path of the wheel to stdout. Without torch's
headers parsed again for each file (they are precompiled once), the ops take a fraction of the time.
The wheel is kept in the user's cache folder, `$XDG_CACHE_HOME/mmkd` or `~/.cache/mmkd`, by a hash
of all that it depends on, so that the next environment takes seconds. Imports nothing of mmkd.
"""

import argparse
import hashlib
import importlib.metadata as metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FLAGS = '-O2 -g0'
# What a process of the compiler needs at the most, in bytes; measured 1.0e9 for mmcv 2.3.6.
JOB_MEMORY = 1.5e9
# All of mmcv's sources begin with it.
HEADER = '#include <torch/types.h>\n'


def say(text: str, passing: bool = False) -> None:
    """Print a line for the user; on a terminal the next line takes the place of a `passing` one."""
    begin, end = ('\r', '\x1b[K' + '\n' * (not passing)) if sys.stderr.isatty() else ('', '\n')
    print(f'{begin}[mmkd {time.strftime("%H:%M:%S")}] {text}', end=end, file=sys.stderr, flush=True)


def fail(text: str) -> None:
    """End with a message."""
    sys.exit(f'error: {text}')


def compiler() -> str:
    """Return the C++ compiler's command."""
    return os.environ.get('CXX') or 'g++'


def output(*command: str) -> str:
    """Return a command's output, empty if it can't be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def torch_folder() -> Path:
    """Return where torch is installed, without importing it."""
    found = importlib.util.find_spec('torch')
    if found is None or found.origin is None:
        fail(f'torch is not installed in {sys.prefix}: it comes before mmcv')
    return Path(found.origin).parent


def circumstances(requirement: str) -> dict[str, str]:
    """Return everything that decides whether a compiled wheel fits."""
    version = output(*shlex.split(compiler()), '--version').split('\n')[0]
    if not version:
        fail(
            f'the C++ compiler {compiler()!r} cannot be run. '
            'On Debian and Ubuntu: apt-get install g++'
        )
    found = {
        'mmcv': requirement,
        'torch': (torch_folder() / 'version.py').read_text(),
        'python': sysconfig.get_config_var('SOABI') or platform.python_version(),
        'platform': sysconfig.get_platform(),
        'libc': ' '.join(platform.libc_ver()),
        'compiler': version,
    }
    for name in ('CFLAGS', 'CXXFLAGS', 'FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST'):
        found[name] = os.environ.get(name, '')
    if found['FORCE_CUDA'] == '1' or shutil.which('nvidia-smi'):
        found['nvcc'] = output('nvcc', '--version')
    return found


def cache_folder() -> Path:
    """Return where wheels are kept; the environment itself where there is no cache folder."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    folder = Path(home) / 'mmkd'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    say(f'{folder} cannot be written: the wheel is kept in {sys.prefix}')
    return Path(sys.prefix) / 'mmkd-wheels'


def jobs() -> int:
    """Return how many files to compile at a time: one a core, as far as the memory reaches."""
    if os.environ.get('MAX_JOBS'):
        return int(os.environ['MAX_JOBS'])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return max(1, min(cores or 1, int(memory // JOB_MEMORY)))


def pip(*arguments: str) -> list[str]:
    """Return pip's command in this environment."""
    return [sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments]


def minutes(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d} min'


def progress(lines: Iterator[str], log: IO[str]) -> None:
    """Copy a build's output to the log, and say how many files are done.

    One line that changes on a terminal, else a line every half minute.
    """
    terminal = sys.stderr.isatty()
    start, said = time.monotonic(), 0.0
    for line in lines:
        log.write(line)
        log.flush()
        found = re.search(r'\[(\d+)/(\d+)\]', line)
        if not found:
            if 'mmkd: ' in line:
                say('mmcv: ' + line.split('mmkd: ')[1].strip())
                start = time.monotonic() if 'headers' not in line else start
            continue
        done, of = map(int, found.groups())
        passed = time.monotonic() - start
        text = f'mmcv: {done} of {of} files after {minutes(passed)}'
        if 0 < done < of:
            text += f', about {minutes(passed / done * (of - done))} to go'
        if terminal:
            say(text, passing=done < of)
        elif done in (1, of) or time.monotonic() - said >= 30:
            say(text)
            said = time.monotonic()


def fetch(requirement: str, folder: Path) -> Path:
    """Download and unpack the source package; return its folder."""
    name = re.split('[=<>~!]', requirement)[0]
    done = subprocess.run(
        pip(
            'download', '--quiet', '--no-deps', '--no-build-isolation', '--no-binary', name,
            '--dest', str(folder), requirement,
        ),
        capture_output=True,
        text=True,
    )  # fmt: skip
    archives = list(folder.glob('*.tar.gz'))
    if done.returncode or not archives:
        fail(f'no source package of {requirement}:\n{(done.stdout + done.stderr)[-1500:]}')
    with tarfile.open(archives[0]) as archive:
        # Python before 3.10.12 and 3.11.4 has no filters.
        archive.extraction_filter = getattr(tarfile, 'data_filter', None)
        archive.extractall(folder)
    return next(path.parent for path in folder.glob('*/setup.py'))


def compile_wheel(requirement: str, target: Path, log: IO[str]) -> None:
    """Compile the ops and put the wheel into the folder `target`."""
    ninja = shutil.which('ninja', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    if ninja is None:
        fail(f'no ninja: {sys.executable} -m pip install -r requirements/build.txt')
    with tempfile.TemporaryDirectory(prefix='mmkd-mmcv-') as temporary:
        folder = Path(temporary)
        torch = metadata.version('torch')
        say(f'{requirement} is compiled for torch {torch}, {jobs()} at a time')
        source = fetch(requirement, folder)
        shim = folder / 'bin' / 'ninja'
        shim.parent.mkdir()
        call = shlex.join([sys.executable, os.path.abspath(__file__), '--as-ninja', ninja])
        shim.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        shim.chmod(0o755)
        environment = dict(
            os.environ,
            PATH=f'{shim.parent}:{os.environ["PATH"]}',
            CFLAGS=os.environ.get('CFLAGS') or FLAGS,
            MAX_JOBS=str(jobs()),
            MMCV_WITH_OPS='1',
        )
        command = pip(
            'wheel', '-v', '--no-deps', '--no-build-isolation', '-w', temporary, str(source)
        )
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process:
            progress(process.stdout, log)
        wheels = list(folder.glob('*.whl'))
        if process.returncode or not wheels:
            fail(f'{requirement} was not compiled; the whole output is in {log.name}')
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as place:
            # Complete or not there: another process may look at the same time.
            ready = Path(place) / 'ready'
            ready.mkdir()
            shutil.copy(wheels[0], ready)
            shutil.rmtree(target, ignore_errors=True)
            ready.rename(target)


def with_standard_of_torch(text: str) -> str:
    """Raise the C++ standard in `build.ninja` to the one that torch's headers ask for.

    mmcv 2.3.6 asks for C++17, the headers of torch 2.14 for C++20.
    """
    header = torch_folder() / 'include/ATen/ATen.h'
    wanted = re.search(r'C\+\+(\d+) or later', header.read_text())
    lowest = int(wanted.group(1)) if wanted else 0
    return re.sub(
        r'(-std=\w+\+\+)(\d+)', lambda found: f'{found[1]}{max(lowest, int(found[2]))}', text
    )


def with_largest_first(text: str) -> str:
    """Begin with the largest files, so that no core is left alone with one at the end."""
    lines = r'^build .*: compile (.*)$'
    sizes = {
        found[0]: os.path.getsize(re.sub(r'\$(.)', r'\1', found[1]))
        for found in re.finditer(lines, text, re.MULTILINE)
    }
    ordered = iter(sorted(sizes, key=lambda line: -sizes[line]))
    return re.sub(lines, lambda _: next(ordered), text, flags=re.MULTILINE)


def as_ninja(ninja: str, arguments: list[str]) -> None:
    """Precompile torch's headers with the flags of the build, then be ninja.

    Args:
        ninja: The real one.
        arguments: What torch's BuildExtension calls it with, in the folder of `build.ninja`.
    """
    build = Path('build.ninja')
    if build.is_file() and '--version' not in arguments:
        text = with_largest_first(with_standard_of_torch(build.read_text()))
        values = dict(re.findall(r'^(\w+) = ?(.*)$', text, re.MULTILINE))
        # Beside the sources, since the folder of `build.ninja` is inside them.
        header = Path('mmkd_precompiled.h').resolve()
        header.write_text(HEADER)
        print("mmkd: torch's headers are precompiled", flush=True)
        flags = f'{values.get("cflags", "")} {values.get("post_cflags", "")}'
        flags = re.sub(r'\$(.)', r'\1', flags)  # ninja's escapes
        command = [
            *shlex.split(values.get('cxx', 'g++')), *shlex.split(flags),
            '-x', 'c++-header', str(header), '-o', f'{header}.gch',
        ]  # fmt: skip
        if subprocess.run(command).returncode == 0:
            include = shlex.quote(str(header)).replace(' ', '$ ')
            text = re.sub(r'^cflags = ?', f'cflags = -include {include} ', text, flags=re.MULTILINE)
            print('mmkd: the files are compiled', flush=True)
        else:
            print('mmkd: the files are compiled without them, which takes longer', flush=True)
        build.write_text(text)
    os.execv(ninja, [ninja, *arguments])


def main() -> None:
    """Find or build the wheel."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('requirement', help='a version, as in onedl-mmcv==2.3.6')
    parser.add_argument('--log', default=os.devnull, help="the compiler's output is added to it")
    parser.add_argument('--again', action='store_true', help='do not take it from the cache')
    options = parser.parse_args()
    if not re.fullmatch(r'[\w.-]+==[\w.+!-]+', options.requirement):
        fail(f'{options.requirement!r} names no version, as in onedl-mmcv==2.3.6')
    found = circumstances(options.requirement)
    key = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / f'{options.requirement}-{key}'
    wheels = list(folder.glob('*.whl'))
    if wheels and not options.again:
        say(f'mmcv: compiled before, from {folder}')
    else:
        with open(options.log, 'a') as log:
            log.write(json.dumps(found, indent=1) + '\n')
            start = time.monotonic()
            compile_wheel(options.requirement, folder, log)
        wheels = list(folder.glob('*.whl'))
        say(f'mmcv: compiled in {minutes(time.monotonic() - start)}, kept in {folder}')
    print(wheels[0])


if __name__ == '__main__':
    if sys.argv[1:2] == ['--as-ninja']:
        as_ninja(sys.argv[2], sys.argv[3:])
    else:
        main()
