"""What links cost as the students become more."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmkd.apis.benchmark import Step, cached_batches, copy_batch, prepare
from mmkd.utils.errors import ConfigError
from mmkd.utils.roles import students_of
from mmkd.utils.text import align

# The forms that are measured: changes of `model.sharing`.
FORMS: dict[str, dict[str, Any]] = {
    'no links': dict(type='individual'),
    'a link from each peer': dict(type='ml_p'),
    'one from the mean of the others': dict(type='ml_p', peers=dict(type='MeanProbability')),
}


def with_students(cfg: Config, count: int, sharing: Mapping[str, Any]) -> Config:
    """Return a config with that many students, copies of the first one, and no teacher.

    Args:
        cfg: Config of an OnlineDistiller.
        count: The students.
        sharing: The preset; with one student there are no peers, hence no links.
    """
    cfg = copy.deepcopy(cfg)
    students = students_of(cfg.model)
    if not students:
        raise ConfigError('model.members: there is no student to copy')
    first = cfg.model.members[students[0]]
    names = [f'student{i + 1}' for i in range(count)]
    members = {name: dict(copy.deepcopy(first), seed=i) for i, name in enumerate(names)}
    cfg.model.members = members
    cfg.model.sharing = dict(sharing) if count > 1 else None
    cfg.model.links = None
    cfg.model.ensemble = dict(members=names)
    return cfg


def measure_students(
    config_file: str,
    options: Mapping[str, Any],
    counts: Sequence[int],
    steps: int,
    device: str,
) -> dict[int, dict[str, float]]:
    """Take steps of each form with each number of students, in turn.

    Args:
        config_file: Config of an OnlineDistiller; its first student is copied.
        options: `--cfg-options`.
        counts: Numbers of students.
        steps: Of each, after two that are not counted.
        device: `cpu` or `cuda`.

    Returns:
        By number of students and form the median seconds of a step; on a CPU those of the process.
    """
    cfg = prepare(config_file, options)
    batches = cached_batches(cfg, min(steps, 8))
    clock = time.process_time if device == 'cpu' else time.perf_counter
    found = {}
    for count in counts:
        forms = {name: s for name, s in FORMS.items() if count > 1 or s['type'] == 'individual'}
        subjects = {
            name: Step(with_students(cfg, count, sharing), device)
            for name, sharing in forms.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in subjects}
        for index in range(steps + 2):
            for name, step in subjects.items():
                spent = step(copy_batch(batches[index % len(batches)]), clock)
                if index >= 2:  # the first ones allocate
                    seconds[name].append(spent)
        found[count] = {name: statistics.median(values) for name, values in seconds.items()}
    return found


def students_table(found: Mapping[int, Mapping[str, float]]) -> str:
    """Format the figures: the step, and what each form adds to that without links."""
    rows = [['students', *(f'{name}, s' for name in FORMS)]]
    for count, seconds in found.items():
        plain = seconds['no links']
        row = [str(count), f'{plain:.4f}']
        for name in list(FORMS)[1:]:
            value = seconds.get(name)
            row.append('-' if value is None else f'{value:.4f} ({value / plain - 1:+.1%})')
        rows.append(row)
    return align(rows)
