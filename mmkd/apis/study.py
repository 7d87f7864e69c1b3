"""The same config trained under several sharing presets and seeds, and the table of their results."""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from zlib import crc32

from mmengine.config import Config

from mmkd.apis.command_line import read_config
from mmkd.models.distillers.sharing import PRESETS
from mmkd.utils.checks import choose
from mmkd.utils.files import write_atomically

TRAIN = Path(__file__).resolve().parents[2] / 'tools' / 'train.py'
if not TRAIN.is_file():
    TRAIN = Path(__file__).resolve().parents[1] / '.mim' / 'tools' / 'train.py'


def run_options(cfg, preset, seed):
    """Return the `--cfg-options` of one run: the preset, and other seeds for run and members than those of other runs.

    A teacher that no link reads changes nothing for the students and is left out, except in `individual`, whose row shows
    what it reaches.
    """
    options = {'model.sharing.type': preset, 'randomness.seed': seed}
    for name in cfg.model.members:  # by name and not by place, which a dumped config changes
        options[f'model.members.{name}.seed'] = 100 * seed + crc32(name.encode()) % 100
    if not PRESETS[preset][0] and preset != 'individual':
        options = {key: value for key, value in options.items() if not key.startswith('model.members.teacher.')}
        options['model.members.teacher'] = None
    return options


def last_metrics(work_dir):
    """Return the last validation's metrics of a training, {'student1/mDice': ...}."""
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    metrics = {}
    for line in logs[-1].read_text().splitlines() if logs else []:
        entry = json.loads(line)
        if any(key.startswith('ensemble/') for key in entry):
            metrics = {key: value for key, value in entry.items() if '/' in key}
    if not metrics:
        raise ValueError(f'{work_dir}: no validation found in its logs')
    return metrics


def run_once(config, preset, seed, out, extra):
    """Train once in a process of its own, unless its result is there already; returns the last validation's metrics."""
    folder = Path(out) / f'{preset}_seed{seed}'
    result = folder / 'result.json'
    if result.is_file():
        return json.loads(result.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    options = {**run_options(Config.fromfile(config), preset, seed), 'default_hooks.checkpoint.max_keep_ckpts': 1}
    command = [sys.executable, str(TRAIN), str(config), '--work-dir', str(folder), '--cfg-options',
               *(f'{key}={value}' for key, value in options.items()), *extra]
    with open(folder / 'train.log', 'w') as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
    if done.returncode:
        raise ValueError(f'training {preset}, seed {seed}, failed: see {folder / "train.log"}')
    metrics = last_metrics(folder)
    write_atomically(result, lambda path: Path(path).write_text(json.dumps(metrics)))
    return metrics


def table(results, members, metric):
    """Format `results` {preset: [metrics of each seed]} as a Markdown table of means and standard deviations."""
    lines = ['| preset | ' + ' | '.join(members) + ' | seeds |', '|---' * (len(members) + 2) + '|']
    for preset, runs in results.items():
        cells = []
        for member in members:
            values = [run[f'{member}/{metric}'] for run in runs if f'{member}/{metric}' in run]
            spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
            cells.append(f'{statistics.mean(values):.2f}{spread}' if values else '-')
        lines.append(f'| `{preset}` | ' + ' | '.join(cells) + f' | {len(runs)} |')
    return '\n'.join(lines)


def study(config, presets, seeds, metric, out, extra=()):
    """Train every preset with every seed, seeds outermost, and yield the table after each run.

    Raises:
        ValueError: For an unknown preset, a config without `model.sharing`, or a run that failed.
    """
    cfg = read_config(config)
    if 'sharing' not in cfg.get('model', {}):
        raise ValueError(f'{config}: no model.sharing to vary')
    for preset in presets:
        choose(preset, PRESETS, '--presets')
    results = {preset: [] for preset in presets}
    for seed in seeds:
        for preset in presets:
            results[preset].append(run_once(config, preset, seed, out, extra))
            yield preset, seed, table(results, [*sorted(cfg.model.members, key=lambda n: n != 'teacher'), 'ensemble'], metric)
