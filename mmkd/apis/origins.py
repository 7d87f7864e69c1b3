"""How a training was started and with which packages, kept beside its logs."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmengine.dist import is_main_process

from mmkd.utils.files import write_atomically
from mmkd.version import __version__
from mmkd.visualization.curves import scalar_files

FILE = 'started.json'
PACKAGES = (
    'torch',
    'onedl-mmengine',
    'mmengine',
    'onedl-mmcv',
    'mmcv',
    'onedl-mmdetection',
    'mmdet',
    'onedl-mmsegmentation',
    'mmsegmentation',
    'onedl-mmpretrain',
    'mmpretrain',
    'numpy',
)
# What mmengine writes at the head of each log, by the packages' names.
IN_LOG = {'Python': 'Python', 'PyTorch': 'torch', 'MMEngine': 'mmengine'}


@dataclass
class Origin:
    """How one run of a training was started.

    Args:
        run: Name of the folder of its logs, the time of its start.
        command: The command line; None where it was not written down.
        versions: By package; those that are known.
    """

    run: str
    command: str | None
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Return the versions of what is installed, Python among them."""
    found = {'Python': sys.version.split()[0], 'mmkd': __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command_line() -> str:
    """Return the command line of this process, quoted as a shell needs it.

    If torchrun started it, the line begins with torchrun and the numbers of nodes and processes: it
    can be repeated as it is where there is one node.
    """
    start = ['python']
    nodes, each = (os.environ.get(name) for name in ('GROUP_WORLD_SIZE', 'LOCAL_WORLD_SIZE'))
    if nodes and each:
        start = ['torchrun', f'--nnodes={nodes}', f'--nproc-per-node={each}']
    return shlex.join([*start, *sys.argv])


def write_origin(folder: str | Path) -> None:
    """Write command line and versions to `started.json` in a folder, by the main process alone."""
    if not is_main_process():
        return
    text = json.dumps(dict(command=command_line(), versions=versions()), indent=1)
    write_atomically(
        Path(folder) / FILE, lambda path: Path(path).write_text(text + '\n', encoding='utf-8')
    )


def read_origins(work_dir: str | Path) -> list[Origin]:
    """Return how each run of a work folder's training was started, oldest first.

    A run without a readable `started.json` (of an older mmkd, or not of tools/train.py) has the
    versions that stand in its log.
    """
    folders = {file.parent for file in Path(work_dir).glob(f'*/{FILE}')}
    folders |= {file.parents[1] for file in scalar_files(work_dir)}
    return [_origin(folder) for folder in sorted(folders)]


def _origin(folder: Path) -> Origin:
    try:
        content = json.loads((folder / FILE).read_text(encoding='utf-8'))
        return Origin(folder.name, str(content['command']), dict(content['versions']))
    except (OSError, ValueError, KeyError, TypeError):
        return Origin(folder.name, None, _versions_in_log(folder / f'{folder.name}.log'))


def _versions_in_log(log: Path) -> dict[str, str]:
    try:
        with open(log, encoding='utf-8', errors='replace') as file:
            head = file.read(20_000)
    except OSError:
        return {}
    found = {name: re.search(rf'^ *{name}: (\S+)', head, re.MULTILINE) for name in IN_LOG}
    return {IN_LOG[name]: match.group(1) for name, match in found.items() if match}


def version_rows(origins: Sequence[Origin], own: dict[str, str]) -> list[list[str]]:
    """Return a head and a row by package: the versions of the training, and of this process.

    Args:
        origins: The training's runs; those of the same versions share a column.
        own: Of this process.
    """
    columns = {'training': Origin('', None, {})}
    shown: list[dict[str, str]] = []
    for origin in origins:
        if origin.versions and origin.versions not in shown:
            columns.pop('training', None)
            columns[f'training ({origin.run})'] = origin
            shown.append(origin.versions)
    columns['this page'] = Origin('', '', own)
    packages = dict.fromkeys(package for origin in columns.values() for package in origin.versions)
    rows = [['package', *columns]]
    rows += [[package, *(_version(o, package) for o in columns.values())] for package in packages]
    return rows


def _version(origin: Origin, package: str) -> str:
    # Only what was written down is the whole list: a log names few packages.
    return origin.versions.get(package, 'not known' if origin.command is None else '-')
