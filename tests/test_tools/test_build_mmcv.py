"""tools/build_mmcv.py with a pip and a compiler that are stand-ins; ninja is the real one."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'tools/build_mmcv.py'
PIP = '''
import io, os, subprocess, sys, tarfile
from pathlib import Path

words = sys.argv[1:]
with open(os.environ['CALLS'], 'a') as calls:
    calls.write('pip ' + next(word for word in words if not word.startswith('-')) + '\\n')
if 'download' in words:
    folder = words[words.index('--dest') + 1]
    with tarfile.open(folder + '/mmcv.tar.gz', 'w:gz') as archive:
        archive.addfile(tarfile.TarInfo('mmcv-9.9/setup.py'), io.BytesIO())
if 'wheel' in words:
    build = Path(words[-1], 'build')
    build.mkdir()
    for size, name in enumerate('abc'):
        (build / f'{name}.cpp').write_text(' ' * size)
    (build / 'build.ninja').write_text("""
cxx = fake-g++
cflags = -DONE='a b' -fPIC
post_cflags = -std=c++11
rule compile
  command = $cxx $cflags -c $in -o $out $post_cflags
build a.o: compile a.cpp
build b.o: compile b.cpp
build c.o: compile c.cpp
""")
    assert os.environ['CFLAGS'] and os.environ['MMCV_WITH_OPS'] == '1'
    subprocess.run(['ninja', '-v', '-j', os.environ['MAX_JOBS']], cwd=build, check=True)
    Path(words[words.index('-w') + 1], 'mmcv-9.9-py3-none-any.whl').write_text('wheel')
'''
COMPILER = """#!/bin/sh
[ "$1" = --version ] && { echo "$COMPILER"; exit; }
echo "g++ $*" >>"$CALLS"
case "$*" in *"$BROKEN"*) exit 1 ;; esac
while [ "$1" != -o ]; do shift; done
: >"$2"
"""


@pytest.fixture
def build(tmp_path):
    """Return a function that builds and returns the run and the calls of pip and the compiler."""
    (tmp_path / 'pip').mkdir()
    (tmp_path / 'pip/__init__.py').touch()
    (tmp_path / 'pip/__main__.py').write_text(PIP)
    compiler = tmp_path / 'bin/fake-g++'
    compiler.parent.mkdir()
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    calls = tmp_path / 'calls'

    def run(*arguments, **environment):
        calls.write_text('')
        done = subprocess.run(
            [sys.executable, str(SCRIPT), 'mmcv==9.9', '--log', str(tmp_path / 'log'), *arguments],
            capture_output=True,
            text=True,
            env={
                'PATH': f'{compiler.parent}:{os.environ["PATH"]}',
                'PYTHONPATH': str(tmp_path),
                'XDG_CACHE_HOME': str(tmp_path / 'cache'),
                'CXX': 'fake-g++',
                'CALLS': str(calls),
                'COMPILER': 'fake 12.2',
                'BROKEN': 'nothing is',
                'MAX_JOBS': '1',
                **environment,
            },
        )
        return done, calls.read_text().splitlines()

    return run


def test_compiles_once_for_a_compiler_and_says_how_far_it_is(build):
    done, calls = build()
    assert done.returncode == 0, done.stderr
    wheel = Path(done.stdout.strip())
    assert wheel.read_text() == 'wheel'
    assert calls[:2] == ['pip download', 'pip wheel']
    header, *files = calls[2:]
    flags = header.split(' -x c++-header ')[0]
    # mmcv asks for an older C++ than torch's headers do.
    assert re.fullmatch(r'g\+\+ -DONE=a b -fPIC -std=c\+\+(17|2\d)', flags), flags
    place = header.split()[-1].removesuffix('.gch')
    for name, line in zip('cba', files, strict=True):  # the largest first
        assert line.startswith(f'g++ -include {place} -DONE=a b -fPIC -c {name}.cpp ')
    assert '1 of 3 files after 0:0' in done.stderr and '3 of 3 files' in done.stderr

    done, calls = build()
    assert done.stdout.strip() == str(wheel) and calls == []
    done, calls = build('--again')
    assert done.stdout.strip() == str(wheel) and 'pip wheel' in calls
    done, calls = build(COMPILER='fake 13.1')
    assert done.stdout.strip() != str(wheel) and 'pip wheel' in calls
    assert wheel.exists()


def test_compiles_without_precompiled_headers_where_they_fail(build):
    done, calls = build(BROKEN='c++-header')
    assert done.returncode == 0 and 'without them' in done.stderr
    assert len(calls) == 6 and not any('-include' in line for line in calls)


def test_a_file_that_does_not_compile_leaves_nothing_in_the_cache(build, tmp_path):
    done, calls = build(BROKEN='b.cpp')
    assert done.returncode == 1 and done.stdout == ''
    assert re.search(r'^error: mmcv==9.9 was not compiled.*log$', done.stderr, re.MULTILINE)
    assert not list((tmp_path / 'cache').rglob('*.whl'))
    assert re.search(r'FAILED: .*b\.o', (tmp_path / 'log').read_text())
    assert build()[0].returncode == 0


def test_without_a_compiler(build):
    done, calls = build(CXX='no-such-compiler')
    assert done.returncode == 1 and "error: the C++ compiler 'no-such-compiler'" in done.stderr
    assert calls == []


def test_without_a_cache_folder_the_wheel_goes_into_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'prefix', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', os.devnull)
    assert runpy.run_path(str(SCRIPT))['cache_folder']() == tmp_path / 'mmkd-wheels'
    assert 'cannot be written' in capsys.readouterr().err


def test_an_unknown_stack_is_refused(tmp_path):
    script = SCRIPT.with_name('setup_env.sh')
    for arguments, message in (
        (['--stack', 'new'], "error: no stack 'new': onedl or original"),
        (['--original'], 'usage: bash tools/setup_env.sh [--stack original]'),
    ):
        done = subprocess.run(
            ['bash', str(script), *arguments],
            capture_output=True,
            text=True,
            env={'PATH': os.environ['PATH'], 'MMKD_VENV': str(tmp_path / 'venv')},
        )
        assert done.returncode == 2 and done.stderr.strip() == message
    assert not list(tmp_path.iterdir())


def test_what_is_selected_for_the_original_packages_exists():
    root = SCRIPT.parents[1]
    for line in (root / 'tests/original_stack.txt').read_text().splitlines():
        sign, name, *why = line.split()
        path, _, test = name.partition('::') if sign != '#' else ('tests', '', '')
        assert (root / path).exists(), name
        if sign == '-':
            assert f'def {test.split("[")[0]}(' in (root / path).read_text() and why, name
