"""The same config trained under several sharing presets, or variants of its own, and seeds, and the table of their results."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from zlib import crc32

from mmkd.apis.command_line import read_config
from mmkd.models.distillers.sharing import PRESETS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.files import write_atomically

TRAIN = Path(__file__).resolve().parents[2] / 'tools' / 'train.py'
if not TRAIN.is_file():
    TRAIN = Path(__file__).resolve().parents[1] / '.mim' / 'tools' / 'train.py'


def run_config(config, row, seed):
    """Return the config of one run: a row's changes, and other seeds for run and members than those of other runs.

    A row is one of the config's `variants` (whose values replace the config's, dotted keys or nested dicts) or a preset of
    `model.sharing`. For a preset, a teacher that no link reads changes nothing for the students and is left out, except in
    `individual`, whose row shows what it reaches.
    """
    cfg = read_config(config)
    variants = cfg.pop('variants', {})
    if row in variants:
        cfg.merge_from_dict(variants[row])
    else:
        cfg.merge_from_dict({'model.sharing.type': row})
        if not PRESETS[row][0] and row != 'individual':
            cfg.merge_from_dict({'model.members.teacher': None})
    options = {'randomness.seed': seed, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    for (
        name,
        member,
    ) in cfg.model.members.items():  # by name and not by place, which a dumped config changes
        if member is not None:
            options[f'model.members.{name}.seed'] = 100 * seed + crc32(name.encode()) % 100
    cfg.merge_from_dict(options)
    return cfg


def last_metrics(work_dir):
    """Return the last validation's metrics of a training, {'student1/mDice': ...}."""
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    metrics = {}
    for line in logs[-1].read_text().splitlines() if logs else []:
        entry = json.loads(line)
        if any(key.startswith('ensemble/') for key in entry):
            metrics = {key: value for key, value in entry.items() if '/' in key}
    if not metrics:
        raise ConfigError(f'{work_dir}: no validation found in its logs')
    return metrics


def run_once(config, row, seed, out, extra):
    """Train once in a process of its own, unless its result is there already; returns the last validation's metrics."""
    folder = Path(out) / f'{row}_seed{seed}'
    result = folder / 'result.json'
    if result.is_file():
        return json.loads(result.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / Path(config).name
    write_atomically(file, lambda path: run_config(config, row, seed).dump(path))
    command = [sys.executable, str(TRAIN), str(file), '--work-dir', str(folder)]
    with open(folder / 'train.log', 'w') as log:
        done = subprocess.run(
            [*command, '--cfg-options', *extra] if extra else command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ,
        )
    if done.returncode:
        raise ConfigError(f'training {row}, seed {seed}, failed: see {folder / "train.log"}')
    metrics = last_metrics(folder)
    write_atomically(result, lambda path: Path(path).write_text(json.dumps(metrics)))
    return metrics


def table(results, members, metric, title='preset'):
    """Format `results` {row: [metrics of each seed]} as a Markdown table of means and standard deviations."""
    lines = [
        f'| {title} | ' + ' | '.join(members) + ' | seeds |',
        '|---' * (len(members) + 2) + '|',
    ]
    for row, runs in results.items():
        cells = []
        for member in members:
            values = [run[f'{member}/{metric}'] for run in runs if f'{member}/{metric}' in run]
            spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
            cells.append(f'{statistics.mean(values):.2f}{spread}' if values else '-')
        lines.append(f'| `{row}` | ' + ' | '.join(cells) + f' | {len(runs)} |')
    return '\n'.join(lines)


def study(config, presets, seeds, metric, out, extra=(), variants=None):
    """Train every row with every seed, seeds outermost, and yield row, seed and the table after each run.

    Args:
        presets (list[str]): Rows that are presets of `model.sharing`.
        variants (list[str], optional): Rows that are `variants` of the config, in place of presets; an empty list for all.
        extra (list[str]): `--cfg-options` of every run.

    Raises:
        ConfigError: For an unknown preset or variant, a config without what is to vary, or a run that failed.
    """
    cfg = read_config(config)
    if variants is None:
        rows, known, flag, title = presets, PRESETS, '--presets', 'preset'
        if 'sharing' not in cfg.get('model', {}):
            raise ConfigError(f'{config}: no model.sharing to vary')
    else:
        known, flag, title = cfg.get('variants') or {}, '--variants', 'variant'
        rows = variants or list(known)
        if not known:
            raise ConfigError(
                f'{config}: no variants to train: expected variants = dict(name=dict(...changes...), ...)'
            )
    for row in rows:
        choose(row, known, flag)
    results = {row: [] for row in rows}
    members = [name for name, member in cfg.model.members.items() if member is not None]
    names = [*sorted(members, key=lambda n: n != 'teacher'), 'ensemble']
    for seed in seeds:
        for row in rows:
            results[row].append(run_once(config, row, seed, out, extra))
            yield row, seed, table(results, names, metric, title)
