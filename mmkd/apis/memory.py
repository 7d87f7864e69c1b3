"""Peak memory and time of a step as members are added, trained together and in turns."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from mmengine.config import Config
from torch.profiler import ProfilerActivity, profile

from mmkd.apis.benchmark import Step, cached_batches, copy_batch, online_members, prepare
from mmkd.export import plain_config
from mmkd.utils.errors import ConfigError

MODES = {'together': False, 'in turns': True}


def with_members(cfg: Config, count: int) -> Config:
    """Return a copy of a config with `count` online members.

    The last ones are left out, with their averages and options, or the last one is added again, as
    `student1_2`, `student1_3`, ...

    Raises:
        ConfigError: If links of its own name a member that is left out.
    """
    cfg, names = copy.deepcopy(cfg), online_members(cfg)
    gone = names[count:]
    for name, member in list(cfg.model.members.items()):
        if name in gone or (member or {}).get('of') in gone:
            del cfg.model.members[name]
    for name in gone:
        (cfg.optim_wrapper.get('members') or {}).pop(name, None)
    last = names[-1]
    for index in range(2, count - len(names) + 2):
        added = copy.deepcopy(cfg.model.members[last])
        added.pop('seed', None)
        cfg.model.members[f'{last}_{index}'] = added
    left = set(names[:count])
    for link in cfg.model.get('links') or ():
        source = link.source if isinstance(link.source, list) else [link.source]
        if not {*source, link.target} <= {*left, *cfg.model.members, 'ensemble'}:
            raise ConfigError(f'--members {count}: a link of model.links needs more members')
    if cfg.model.get('ensemble'):
        for key in ('members', 'weights', 'calibration'):  # what it has for each member
            cfg.model.ensemble.pop(key, None)
    if isinstance(cfg.model.get('sharing'), dict):
        cfg.model.sharing.pop('students', None)
    return cfg


def peak_of_step(step: Step, batch: Mapping[str, Any], device: str) -> float:
    """Return by how many MiB a step's tensors exceed, at their peak, those alive before it.

    Weights, buffers and optimizer states are there before, if steps have been taken; activations
    and gradients are not. On a CPU the profiler's record of all allocations is added up: the same
    in each run, which the size of the process is not.
    """
    gc.collect()
    if device == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(copy_batch(dict(batch)))
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step(copy_batch(dict(batch)))
    assert record.profiler is not None and record.profiler.kineto_results is not None
    changes = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    total = peak = 0
    for event in sorted(changes, key=_start):
        total += event.nbytes()
        peak = max(peak, total)
    return peak / 2**20


def _start(event: Any) -> int:
    return event.start_ns() if hasattr(event, 'start_ns') else event.start_us()  # torch 2.1


def measure_peak(
    config_file: str, options: Mapping[str, Any], count: int, subject: str, device: str
) -> dict[str, float]:
    """Measure the peak of a third step; for a process of its own.

    Args:
        config_file: Config of an OnlineDistiller.
        options: `--cfg-options`.
        count: Number of online members.
        subject: One of `MODES`, or a member, which is then trained alone.
        device: `cpu` or `cuda`.

    Returns:
        MiB: `step`, see `peak_of_step`; `process`, the growth of its resident peak over what it
        had before the model was built.
    """
    cfg = with_members(prepare(config_file, options), count)
    batches = cached_batches(cfg, 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if subject in MODES:
        cfg.model.in_turns = MODES[subject]
    else:
        cfg = plain_config(cfg, subject)
    step = Step(cfg, device)
    for batch in batches[:2]:
        step(copy_batch(batch))
    process = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    return dict(step=peak_of_step(step, batches[2], device), process=process)


def measure_turns_time(
    config_file: str, options: Mapping[str, Any], count: int, steps: int, device: str
) -> dict[str, float]:
    """Return the median seconds of a step in both modes, taken in turn.

    On a CPU they are those of the process, which others on the machine hardly change.
    """
    cfg = with_members(prepare(config_file, options), count)
    batches = cached_batches(cfg, min(steps, 8))
    subjects = {}
    for mode, in_turns in MODES.items():
        own = copy.deepcopy(cfg)
        own.model.in_turns = in_turns
        subjects[mode] = Step(own, device)
    clock = time.process_time if device == 'cpu' else time.perf_counter
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for index in range(steps + 2):
        for mode, step in subjects.items():
            spent = step(copy_batch(batches[index % len(batches)]), clock)
            if index >= 2:  # the first ones allocate
                seconds[mode].append(spent)
    return {mode: statistics.median(values) for mode, values in seconds.items()}


def profile_members(
    config_file: str, options: Mapping[str, Any], counts: Sequence[int], steps: int, device: str
) -> list[dict[str, Any]]:
    """Measure both modes with several numbers of online members, each peak in a process of its own.

    Args:
        config_file: Config of an OnlineDistiller.
        options: `--cfg-options`.
        counts: Numbers of online members.
        steps: Measured steps of each mode.
        device: `cpu` or `cuda`.

    Returns:
        By count: `members`, `alone` (MiB of each kind of member's own step, by name), and of each
        mode `step` and `process` (MiB) and `seconds`.
    """
    names = online_members(prepare(config_file, options))
    found: list[dict[str, Any]] = []
    context = multiprocessing.get_context('spawn')

    def peak(count: int, subject: str) -> dict[str, float]:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(measure_peak, config_file, options, count, subject, device).result()

    alone = {name: peak(len(names), name)['step'] for name in names}
    # Peaks first: a process begins with the resident peak of the one that starts it.
    for count in counts:
        found.append(dict(members=count, alone=alone, **{m: peak(count, m) for m in MODES}))
    for row in found:
        seconds = measure_turns_time(config_file, options, row['members'], steps, device)
        for mode in MODES:
            row[mode]['seconds'] = seconds[mode]
    return found


def members_table(found: Sequence[Mapping[str, Any]], device: str, steps: int) -> str:
    """Format what `profile_members` has found."""
    from mmkd.utils.text import align

    heads = ['together, MiB', 'in turns, MiB', 'process, MiB', 'together, s', 'in turns, s', 'time']
    rows = [['members', *heads]]
    for row in found:
        together, turns = row['together'], row['in turns']
        rows.append(
            [
                str(row['members']),
                f'{together["step"]:.1f}',
                f'{turns["step"]:.1f}',
                f'{together["process"]:.0f} / {turns["process"]:.0f}',
                f'{together["seconds"]:.3f}',
                f'{turns["seconds"]:.3f}',
                f'{turns["seconds"] / together["seconds"]:.2f}',
            ]
        )
    alone = ', '.join(f'{name} {peak:.1f}' for name, peak in found[0]['alone'].items())
    return (
        f'{align(rows)}\none member alone, MiB: {alone} ({device}, medians of {steps} steps; MiB '
        'over weights and optimizer states)'
    )
