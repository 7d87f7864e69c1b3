"""Cost of one joint training step against the members' plain steps, in one run."""

from __future__ import annotations

import itertools
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed

from mmkd.apis.command_line import (
    check_loaders,
    check_optimizers,
    fit_inherited,
    import_toolbox,
    merge_options,
    read_config,
)
from mmkd.engine.loops.batch_stream import BatchStream
from mmkd.export import member_specs, plain_config
from mmkd.models.connectors.base import Connector
from mmkd.schedules import Constant
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError


def cached_batches(cfg: Config, count: int) -> list[dict[str, Any]]:
    """Return the first `count` batches of the config's training data, loaded once.

    Where it has an `unlabeled_dataloader`, each batch has one of unlabeled images.

    Raises:
        ConfigError: If a loader gives no batch.
    """
    key = 'unlabeled_dataloader'
    batches = _first_batches(cfg, cfg.train_dataloader, 'train_dataloader', count)
    loader = (cfg.get('train_cfg') or {}).get(key, cfg.get(key))
    if loader is None:
        return batches
    unlabeled = _first_batches(cfg, loader, key, count)
    return [dict(batch, unlabeled=own) for batch, own in zip(batches, unlabeled)]


def _first_batches(
    cfg: Config, loader: Mapping[str, Any], key: str, count: int
) -> list[dict[str, Any]]:
    loader = dict(loader, num_workers=0, persistent_workers=False)
    with naming_keys(cfg):
        stream = BatchStream(Runner.build_dataloader(loader, seed=0), key, seed=0)
    return list(itertools.islice(stream.endless(), count))


def copy_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Copy what a training step may change: the lists of images and the data samples."""
    copied = dict(batch, inputs=list(batch['inputs']))
    if batch.get('data_samples') is not None:
        copied['data_samples'] = [sample.clone() for sample in batch['data_samples']]
    if 'unlabeled' in batch:
        copied['unlabeled'] = copy_batch(batch['unlabeled'])
    return copied


class Step:
    """A model with its optimizers, as the config has them, at the end of its training (progress 1).

    Links act whatever their schedules say, which may end at 0.

    What hooks do in each step of a training is done, too; what they do before it is left out where
    it costs no step's time (connectors that are fitted before count as fitted).

    Args:
        cfg: Of an OnlineDistiller, or of a plain model.
        device: `cpu` or `cuda`.
    """

    def __init__(self, cfg: Config, device: str) -> None:
        set_random_seed(0)
        with naming_keys(cfg):
            self.model: Any = MODELS.build(cfg.model).to(device)
            self.model.init_weights()
            self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.is_distiller = hasattr(self.model, 'ensemble_members')
        self.takes_unlabeled = False
        if self.is_distiller:
            self.model.progress = 1.0
            for link in self.model.links:
                link.spec.schedule = Constant()
                self.takes_unlabeled |= link.spec.on != 'labeled'
        for module in self.model.modules():
            if isinstance(module, Connector) and module.fits_first:
                module.fitted = True
        self.model.train()
        self.taken = 0

    def __call__(self, batch: dict[str, Any], clock: Callable[[], float] | None = None) -> float:
        """Take a step; return its seconds.

        Args:
            batch: As the loaders give it; without links on unlabeled images these are left out, as
                the training does not load them.
            clock: Default: `time.perf_counter`.
        """
        clock = clock or time.perf_counter
        if not self.takes_unlabeled:
            batch = {key: value for key, value in batch.items() if key != 'unlabeled'}
        # Weights that are fitted while training are measured every few iterations.
        MessageHub.get_current_instance().update_info('iter', self.taken)
        self.taken += 1
        self._wait()
        start = clock()
        self.model.train_step(batch, self.optim_wrapper)
        if self.is_distiller:
            self.model.update_ema_members()  # as MemberHook does
        self._wait()
        return clock() - start

    @staticmethod
    def _wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def prepare(config_file: str, options: Mapping[str, Any]) -> Config:
    """Load a config for measuring: quiet, in its scope."""
    if not MMLogger.check_instance_created('mmkd-benchmark'):
        MMLogger.get_instance('mmkd-benchmark', log_level='ERROR')
    cfg = merge_options(read_config(config_file), options)
    if 'pretrain' in cfg:
        raise ConfigError(
            'pretrain: measure the config that the training has left in its work folder, whose '
            'members are frozen'
        )
    fit_inherited(cfg)
    member_specs(cfg)  # an OnlineDistiller's
    check_loaders(cfg)
    check_optimizers(cfg)
    import_toolbox(cfg)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    return cfg


def online_members(cfg: Config) -> list[str]:
    """Return the members that a plain training could train."""
    return [name for name, spec in member_specs(cfg).items() if spec.training == 'online']


def measure_time(
    config_file: str, options: Mapping[str, Any], steps: int, device: str
) -> dict[str, float]:
    """Alternate the joint step and each member's plain step on the same batches.

    Returns:
        Median seconds: `joint`, and by member; on a CPU those of the process, which other processes
        on the machine hardly change.
    """
    cfg = prepare(config_file, options)
    batches = cached_batches(cfg, min(steps, 8))
    subjects = {'joint': Step(cfg, device)}
    subjects.update({name: Step(plain_config(cfg, name), device) for name in online_members(cfg)})
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    clock = time.process_time if device == 'cpu' else time.perf_counter
    for index in range(steps + 2):
        for name, step in subjects.items():
            spent = step(copy_batch(batches[index % len(batches)]), clock)
            if index >= 2:  # the first ones allocate
                seconds[name].append(spent)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare_time(
    config_file: str,
    options: Mapping[str, Any],
    against: Mapping[str, Any],
    steps: int,
    device: str,
) -> tuple[list[float], list[float]]:
    """Take joint steps of a config, and of the same one with other options, in turn.

    Each has the batches of its own config.

    Args:
        config_file: Config of an OnlineDistiller.
        options: `--cfg-options` of both.
        against: Further options of the other.
        steps: Of each, after two that are not counted.
        device: `cpu` or `cuda`.

    Returns:
        The seconds of each step of both; on a CPU those of the process, which other processes on
        the machine hardly change.
    """
    configs = [prepare(config_file, given) for given in (options, {**options, **against})]
    batches = [cached_batches(cfg, min(steps, 8)) for cfg in configs]
    pair = [Step(cfg, device) for cfg in configs]
    clock = time.process_time if device == 'cpu' else time.perf_counter
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(steps + 2):
        for place in (0, 1) if index % 2 else (1, 0):
            own = batches[place]
            spent = pair[place](copy_batch(own[index % len(own)]), clock)
            if index >= 2:  # the first ones allocate
                seconds[place].append(spent)
    return seconds


def compared(seconds: tuple[list[float], list[float]], names: tuple[str, str]) -> str:
    """Format the figures of `compare_time`: means count rare, costly steps, medians do not."""
    from mmkd.utils.text import align

    rows = [['', 'mean, s', 'median, s', 'slowest, s']]
    for name, values in zip(names, seconds):
        mean, median = statistics.mean(values), statistics.median(values)
        rows.append([name, f'{mean:.4f}', f'{median:.4f}', f'{max(values):.4f}'])
    means, medians = (f(seconds[0]) / f(seconds[1]) for f in (statistics.mean, statistics.median))
    return (
        f'{align(rows)}\nratio: means {means:.3f}, medians {medians:.3f} ({len(seconds[0])} steps)'
    )


def measure_memory(
    config_file: str, options: Mapping[str, Any], subject: str, device: str
) -> float:
    """Measure the peak memory of a few steps, in MiB; for a process of its own.

    On a GPU it is torch's peak of allocated bytes, else the growth of the process's resident peak
    over what it has before the model is built.

    Args:
        config_file: Config of an OnlineDistiller.
        options: `--cfg-options`.
        subject: `joint`, or a member.
        device: `cpu` or `cuda`.
    """
    cfg = prepare(config_file, options)
    batches = cached_batches(cfg, 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Step(cfg if subject == 'joint' else plain_config(cfg, subject), device)
    for batch in batches:
        step(copy_batch(batch))
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def table(
    seconds: Mapping[str, float], memory: Mapping[str, float], device: str, steps: int
) -> str:
    """Format the figures, with the sum over the members and the joint step's ratio to it."""
    from mmkd.utils.text import align

    names = [name for name in seconds if name != 'joint']
    sums = [sum(figures[name] for name in names) for figures in (seconds, memory)]
    rows = [['', 'step, s', 'peak, MiB']]
    rows += [[name, f'{seconds[name]:.3f}', f'{memory[name]:.0f}'] for name in (*names, 'joint')]
    rows += [['sum of plain', f'{sums[0]:.3f}', f'{sums[1]:.0f}']]
    return (
        f'{align(rows)}\njoint / sum: time {seconds["joint"] / sums[0]:.2f}, memory '
        f'{memory["joint"] / sums[1]:.2f} ({device}, medians of {steps} steps)'
    )
