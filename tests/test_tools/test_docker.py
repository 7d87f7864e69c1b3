"""What can be checked of the Dockerfiles without an engine; `-m slow` makes the CPU environment."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ['docker/Dockerfile', 'docker/Dockerfile.cpu']


def instructions(name):
    """The file's instructions as (keyword, arguments), continuation lines joined."""
    text = re.sub(r'^\s*#.*\n', '', (ROOT / name).read_text(), flags=re.MULTILINE)
    lines = re.sub(r'\\\n\s*', '', text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


@pytest.mark.parametrize('name', FILES)
def test_run_lines_are_bash_and_what_they_name_exists(name):
    found = instructions(name)
    assert {'FROM', 'RUN', 'USER', 'WORKDIR', 'COPY', 'CMD'} <= {keyword for keyword, _ in found}
    scripts = []
    for keyword, arguments in found:
        if keyword == 'RUN':
            done = subprocess.run(['bash', '-n', '-c', arguments], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            scripts += re.findall(r'\S+\.(?:sh|py)\b', arguments)
        elif keyword == 'CMD':
            scripts += [word for word in json.loads(arguments) if word.endswith(('.sh', '.py'))]
        elif keyword == 'COPY':
            *sources, _ = [word for word in shlex.split(arguments) if not word.startswith('--')]
            assert all((ROOT / source).exists() for source in sources), sources
    assert len(scripts) >= 2 and all((ROOT / script).is_file() for script in scripts), scripts


@pytest.mark.parametrize('name', FILES)
def test_the_base_is_pinned_and_the_user_is_not_root(name):
    found = instructions(name)
    bases = [arguments for keyword, arguments in found if keyword == 'FROM']
    assert bases and all(
        re.fullmatch(r'[\w./-]+:[\w.-]*\d[\w.-]*', base) and 'latest' not in base for base in bases
    )
    users = [arguments for keyword, arguments in found if keyword == 'USER']
    assert users and users[-1] not in ('root', '0')
    place = [keyword for keyword, _ in found].index('USER')
    assert not any(
        keyword == 'RUN' and 'apt-get' in arguments for keyword, arguments in found[place:]
    )


@pytest.mark.parametrize('name', FILES)
def test_everything_that_the_environment_is_made_from_is_copied_before_it(name, tmp_path):
    """An editable install finds its packages in the early layers, the script its own inputs."""
    build_context(name, tmp_path, until='RUN')
    done = subprocess.run(
        [sys.executable, 'setup.py', '--name', '--version'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.split()[0] == 'mmkd', done.stderr[-1000:]
    for used in re.findall(
        r'\$ROOT/([\w./-]+\.(?:py|txt))', (tmp_path / 'tools/setup_env.sh').read_text()
    ):
        if used != 'tools/doctor.py':  # named in messages alone
            assert (tmp_path / used).is_file(), used


def build_context(name, folder, until):
    """Do the COPYs before the last `until` instruction, as the builder would."""
    found = instructions(name)
    last = max(i for i, (keyword, _) in enumerate(found) if keyword == until)
    for keyword, arguments in found[:last]:
        if keyword == 'COPY':
            *sources, target = [
                word for word in shlex.split(arguments) if not word.startswith('--')
            ]
            (folder / target).mkdir(parents=True, exist_ok=True)
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, folder / target, dirs_exist_ok=True)
                else:
                    shutil.copy(ROOT / source, folder / target)


@pytest.mark.skipif(shutil.which('hadolint') is None, reason='no hadolint')
@pytest.mark.parametrize('name', FILES)
def test_lint(name):
    done = subprocess.run(['hadolint', str(ROOT / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_cpu_image_s_environment_is_made_in_a_clean_folder(tmp_path):
    """The RUN line that makes the environment, in what the COPYs leave; needs an index."""
    build_context('docker/Dockerfile.cpu', tmp_path / 'mmkd', until='RUN')
    command = [
        arguments
        for keyword, arguments in instructions('docker/Dockerfile.cpu')
        if keyword == 'RUN'
    ][-1]
    environment = {
        'PATH': '/usr/local/bin:/usr/bin:/bin',
        'HOME': str(tmp_path),
        'MMKD_VENV': str(tmp_path / 'venv'),
        **{
            key: value
            for key, value in os.environ.items()
            if key.startswith(('PIP_', 'http', 'SSL_'))
        },
    }
    done = subprocess.run(
        ['bash', '-c', command],
        cwd=tmp_path / 'mmkd',
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    assert (tmp_path / 'venv/mmkd-installed').is_file()
