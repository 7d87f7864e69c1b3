"""Exporting from a checkpoint, with the config that belongs to it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd.apis.command_line import fit_inherited, import_toolbox, read_config
from mmkd.export import export_member, member_specs
from mmkd.utils.checkpoint import load_file
from mmkd.utils.errors import ConfigError


def config_beside(checkpoint: Path, content: Any) -> Config:
    """Return the training config that mmengine has left in the folder of a checkpoint.

    The text inside the checkpoint is not used: reading it would execute it.

    Args:
        checkpoint: The checkpoint's path.
        content: As `load_file` gives it.

    Raises:
        ConfigError: If there is none with the checkpoint's members.
    """
    return config_of_run(checkpoint.parent, content, f'{checkpoint}: no training config beside it')


def config_of_run(folder: Path, content: Any, told: str) -> Config:
    """Return the newest config in a work folder that has the members of a checkpoint.

    Raises:
        ConfigError: If there is none; the message begins with `told`.
    """
    state = content.get('state_dict') if isinstance(content, dict) else None
    names = {str(key).split('.')[1] for key in state or {} if str(key).startswith('members.')}
    files = sorted(folder.glob('*.py'), key=lambda path: path.lstat().st_mtime, reverse=True)
    for file in files:
        if not _looks_like_a_config(file):
            continue
        try:
            cfg = read_config(file)
            trained = {n for n, spec in member_specs(cfg).items() if spec.training != 'frozen'}
        except ConfigError:
            continue
        if names and names == trained:
            return cfg
    listed = ', '.join(file.name for file in files) or 'none'
    raise ConfigError(
        f'{told} (Python files there: {listed}) with the members {sorted(names)}; name the config '
        'by --config'
    )


def _looks_like_a_config(file: Path) -> bool:
    """Whether a Python file assigns `model` or `_base_`; reading it would execute it."""
    try:
        tree = ast.parse(file.read_text(errors='replace'))
    except (OSError, SyntaxError, ValueError):
        return False
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    return any(isinstance(t, ast.Name) and t.id in ('model', '_base_') for t in targets)


def export(
    checkpoint: str, member: str, out: str, config: str | None, temperature: str = '1'
) -> tuple[Path, Path]:
    """Export a member, or `ensemble`, of a training's checkpoint as tools/export_student.py does.

    Raises:
        ConfigError: For a wrong input; nothing is written then.
    """
    from mmkd.apis.calibrating import read_temperature  # which needs this module

    if Path(out).resolve() == Path(checkpoint).resolve():
        raise ConfigError(f'OUT: {out!r} is the checkpoint itself')
    content = load_file(checkpoint, 'checkpoint')
    if config is None:
        cfg = config_beside(Path(checkpoint), content)
    elif Path(config).is_file():
        cfg = read_config(config)
    else:
        raise ConfigError(f'--config: no file {config!r}')
    fit_inherited(cfg)
    import_toolbox(cfg)
    state = content.get('state_dict') if isinstance(content, dict) else None
    meta = content.get('meta') if isinstance(content, dict) else None
    dataset_meta = meta.get('dataset_meta') if isinstance(meta, dict) else None
    divisor = read_temperature(temperature, member)
    return export_member(
        cfg, state or {}, member, out, dataset_meta, verify=True, temperature=divisor
    )
