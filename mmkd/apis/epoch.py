"""Where the time of a whole training goes: its start, its epochs, its validations."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.hooks import CheckpointHook, Hook, IterTimerHook, LoggerHook
from mmengine.runner import Runner

from mmkd.apis.benchmark import copy_batch, prepare
from mmkd.apis.training import build_runner
from mmkd.export import readable
from mmkd.utils.model import distiller_of

# Batches that are kept to take the same steps and forwards without the rest.
KEPT = 8
# What is no part of the others' sum.
TOTALS = {'total', 'alone', 'plain', 'workers'}


class Spent(NamedTuple):
    """Seconds on the wall and of this process's CPU time, which other processes hardly change."""

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        """Return what both clocks show."""
        return cls(time.perf_counter(), time.process_time())

    def plus(self, other: Spent, factor: float = 1.0) -> Spent:
        """Return the sum with `factor` times another."""
        return Spent(*(a + factor * b for a, b in zip(self, other)))


class Clock:
    """What is spent by part; of parts inside each other it counts for the innermost."""

    def __init__(self) -> None:
        self.spent: dict[str, Spent] = {}
        self._open: list[str] = []
        self._since = Spent.now()

    def _count(self) -> None:
        now = Spent.now()
        if self._open:
            name = self._open[-1]
            self.spent[name] = self.spent.get(name, Spent()).plus(now).plus(self._since, -1)
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done inside for a part."""
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count the calls of an object's method for a part."""
        function = getattr(owner, method)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        setattr(owner, method, timed)

    def waiting(self, items: Iterable[Any], name: str) -> Iterator[Any]:
        """Count the waiting for each item for a part."""
        with self.part(name):
            iterator = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def take(self) -> dict[str, Spent]:
        """Return what was spent since the last call."""
        self._count()
        spent, self.spent = self.spent, {}
        return spent


def workers_cpu() -> float:
    """Return the CPU seconds of the processes that load data so far; 0 where /proc is missing."""
    total = 0.0
    for child in multiprocessing.active_children():
        stat = Path(f'/proc/{child.pid}/stat')
        if stat.exists():
            fields = stat.read_text().rpartition(')')[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
    return total


class TimedLoader:
    """A loader that counts how long is waited for its batches; in all else the loader itself."""

    def __init__(self, loader: Any, clock: Clock, keep: list[Any]) -> None:
        self.loader, self.clock, self.keep = loader, clock, keep

    def __iter__(self) -> Iterator[Any]:
        for batch in self.clock.waiting(self.loader, 'waiting for data'):
            if len(self.keep) < KEPT:
                self.keep.append(copy_batch(batch))
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class EpochProfile(Hook):
    """Measures a Runner's epochs and validations, and the same steps and forwards alone.

    Args:
        clock: Counts the parts.
    """

    priority = 'LOWEST'

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.first_step: float | None = None
        self.train_batches: list[Any] = []
        self.val_batches: list[Any] = []
        self.epochs: list[dict[str, Spent]] = []
        self.validations: list[dict[str, Spent]] = []
        self._began, self._loading = Spent(), 0.0

    def install(self, runner: Runner) -> None:
        """Watch a Runner that is about to train."""
        clock, loop = self.clock, runner.train_loop
        model = distiller_of(runner.model)
        for stream in loop.streams.values():
            self._watch_stream(stream)
        self._keep_batches(runner.model)
        clock.watch(runner.model, 'train_step', 'steps')
        validation: Any = runner.val_loop
        self.val_loader = validation.dataloader
        validation.dataloader = TimedLoader(self.val_loader, clock, self.val_batches)
        self.plain = {name: self._plain_evaluator(runner) for name in self._networks(runner)}
        clock.watch(model, 'predict_members', 'forwards')
        for evaluator in validation.evaluators.values():
            clock.watch(evaluator, 'process', 'metrics')
            clock.watch(evaluator, 'evaluate', 'metrics')
        for hook in runner.hooks:
            for name in dir(Hook):
                if name.startswith(('before_', 'after_')):
                    clock.watch(hook, name, _part_of(hook))
        runner.register_hook(self)

    @staticmethod
    def _networks(runner: Runner) -> list[str]:
        loop: Any = runner.val_loop
        return [name for name in loop.names if name in distiller_of(runner.model).specs]

    def _plain_evaluator(self, runner: Runner) -> Any:
        evaluator = runner.build_evaluator(copy.deepcopy(runner.cfg.val_evaluator))
        evaluator.dataset_meta = self.val_loader.dataset.metainfo
        return evaluator

    def _watch_stream(self, stream: Any) -> None:
        epoch = stream.epoch
        stream.epoch = lambda *args: self.clock.waiting(epoch(*args), 'waiting for data')

    def _keep_batches(self, model: Any) -> None:
        step = model.train_step

        def keeping(data: Any, optim_wrapper: Any) -> Any:
            if self.first_step is None:
                self.first_step = time.perf_counter()
            if len(self.train_batches) < KEPT:
                self.train_batches.append(copy_batch(data))
            return step(data, optim_wrapper)

        self._step, model.train_step = step, keeping

    def _begin(self) -> None:
        self.clock.take()
        self._began, self._loading = Spent.now(), workers_cpu()

    def _end(self) -> dict[str, Spent]:
        total = Spent.now().plus(self._began, -1)
        loading = Spent(cpu=max(workers_cpu() - self._loading, 0))
        return dict(self.clock.take(), total=total, workers=loading)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start an epoch."""
        self._begin()

    def after_train_epoch(self, runner: Runner) -> None:
        """End an epoch; take steps of its kind without loader and hooks."""
        found = self._end()
        found['alone'] = _alone(
            lambda batch: self._step(batch, runner.optim_wrapper),
            self.train_batches,
            len(runner.train_loop.dataloader),
        )
        self.epochs.append(found)

    def before_val_epoch(self, runner: Runner) -> None:
        """Start a validation."""
        self._begin()

    @torch.no_grad()
    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """End a validation; predict with each network alone, then validate each without mmkd."""
        found = self._end()
        model: Any = distiller_of(runner.model)
        networks = {name: model.network(name) for name in self.plain}

        found['alone'] = Spent()
        for network in networks.values():
            spent = _alone(network.val_step, self.val_batches, len(self.val_loader))
            found['alone'] = found['alone'].plus(spent)
        began = Spent.now()
        for name, evaluator in self.plain.items():
            self._validate(networks[name], evaluator)
        found['plain'] = Spent.now().plus(began, -1)
        self.validations.append(found)

    def _validate(self, network: Any, evaluator: Any) -> None:
        """Validate a network as mmengine's ValLoop does, which would call the hooks, too."""
        for batch in self.val_loader:
            evaluator.process(data_samples=network.val_step(batch), data_batch=batch)
        evaluator.evaluate(len(self.val_loader.dataset))


def _part_of(hook: Hook) -> str:
    name = type(hook).__name__
    if isinstance(hook, CheckpointHook) or name == 'BestMemberHook':
        return 'checkpoints'
    if isinstance(hook, (LoggerHook, IterTimerHook)):
        return 'logging'
    return 'pictures' if 'Visualization' in name else 'other hooks'


def _alone(call: Callable[[Any], Any], batches: list[Any], count: int) -> Spent:
    """Return what `count` calls take, by the mean over the batches after one that warms up."""
    call(copy_batch(batches[0]))
    copies = [copy_batch(batch) for batch in batches]
    began = Spent.now()
    for batch in copies:
        call(batch)
    each = Spent.now().plus(began, -1)
    return Spent().plus(each, count / len(batches))


def profile_epochs(
    config_file: str, options: Mapping[str, Any], epochs: int, started: float
) -> dict[str, Any]:
    """Train a config in a folder that is thrown away, and measure.

    Args:
        config_file: Config of an OnlineDistiller.
        options: `--cfg-options`.
        epochs: Measured epochs, each with its validation, after one that is not counted.
        started: `time.perf_counter()` when the process began.

    Returns:
        `start`: seconds from the begin to the first step, by part. `training` and `validation`:
        medians over the epochs of the seconds (wall, CPU) by part, of `total`, of the `workers`
        that load data, and of `alone`: as many steps, or predictions of each network, without
        loader, hooks and metrics; of `plain`: each network's validation as the toolbox does it,
        one after another. `ratio` of total and alone; `evaluation`, what is no checkpoint, by
        alone; `plain_ratio`, the same by plain.
    """
    imported = time.perf_counter()
    cfg = prepare(config_file, options)
    cfg.train_cfg.update(max_epochs=epochs + 1, val_interval=1)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir, cfg.launcher = folder, 'none'
        read = time.perf_counter()
        runner = build_runner(readable(cfg))  # as tools/train.py
        profile = EpochProfile(Clock())
        profile.install(runner)
        built = time.perf_counter()
        runner.train()
    assert profile.first_step is not None
    start = {
        'imports': imported - started,
        'config, toolbox': read - imported,
        'networks, data sets': built - read,
        'to the first step': profile.first_step - built,
        'total': profile.first_step - started,
    }
    rows = dict(training=profile.epochs[1:], validation=profile.validations[1:])
    found: dict[str, Any] = dict(
        config=config_file,
        threads=torch.get_num_threads(),
        workers=cfg.train_dataloader.get('num_workers', 0),
        epochs=epochs,
        steps=len(runner.train_loop.dataloader),
        start=start,
    )
    for name, each in rows.items():
        keys = dict.fromkeys(key for row in each for key in row)
        parts = {
            key: Spent(*map(statistics.median, zip(*(row.get(key, Spent()) for row in each))))
            for key in keys
        }
        rest = parts['total']
        for key in keys.keys() - TOTALS:
            rest = rest.plus(parts[key], -1)
        found[name] = {key: part._asdict() for key, part in dict(parts, other=rest).items()}
        whole = [row['total'] for row in each]
        found[name]['ratio'] = _ratio(whole, [row['alone'] for row in each])
        if name == 'validation':
            measured = [row['total'].plus(row.get('checkpoints', Spent()), -1) for row in each]
            found[name]['evaluation'] = _ratio(measured, [row['alone'] for row in each])
            found[name]['plain_ratio'] = _ratio(measured, [row['plain'] for row in each])
    return found


def _ratio(numerators: Sequence[Spent], denominators: Sequence[Spent]) -> dict[str, float]:
    each = [[a / b for a, b in zip(*pair)] for pair in zip(numerators, denominators)]
    return Spent(*map(statistics.median, zip(*each)))._asdict()


# Rows at the end of a table.
ENDS = dict(
    total='**{}**',
    alone='{}: networks alone',
    ratio='**{} / networks alone**',
    evaluation='{} without checkpoints / networks alone',
    plain='{}: plain ones, one after another',
    plain_ratio='{} without checkpoints / plain ones',
    workers='{}: processes that load',
)


def epoch_table(found: Mapping[str, Any]) -> str:
    """Format the figures as a markdown table."""
    lines = ['| part | wall, s | CPU, s |', '|---|---|---|']
    lines += [f'| start: {key} | {value:.2f} | |' for key, value in found['start'].items()]
    for name in ('training', 'validation'):
        parts = dict(found[name])
        ends = {key: parts.pop(key) for key in ENDS if key in parts}
        rows = sorted(parts.items(), key=lambda item: -item[1]['cpu'])
        lines += [f'| {name}: {k} | {v["wall"]:.2f} | {v["cpu"]:.2f} |' for k, v in rows]
        for key, value in ends.items():
            digits = 2 if key in TOTALS else 3
            wall = '' if key == 'workers' else f'{value["wall"]:.{digits}f}'
            lines.append(f'| {ENDS[key].format(name)} | {wall} | {value["cpu"]:.{digits}f} |')
    return '\n'.join(lines)
