"""Training of a study's runs, several side by side, each in a process of its own."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mmkd.apis.study.plan import Plan, source_commit
from mmkd.apis.study.results import (
    check_arms,
    expected_metrics,
    is_stale,
    read_results,
    result_path,
    run_config,
    run_folder,
    write_config,
    write_result,
    write_text,
)
from mmkd.engine.hooks import StudyResultHook
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.locks import try_lock
from mmkd.utils.tools import tool_path

TRAIN = tool_path('train')
ONE_THREAD = {name: '1' for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')}
GRACE = 60.0  # seconds that a training has to save a checkpoint when the study is stopped
PR_SET_PDEATHSIG = 1


@dataclass
class Training:
    """A run that is being trained."""

    arm: str
    seed: int
    hash: str
    commits: list[str]
    folder: Path
    process: subprocess.Popen
    lock: IO
    started: float
    log_before: int  # bytes of the log that earlier attempts wrote


class Stopped(SystemExit):
    """The study was stopped by a signal; what has been trained is kept."""


def run_study(
    plan: Plan,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    jobs: int = 1,
    stale: str = 'refuse',
    options: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Train the runs of a plan that have no result yet, seeds outermost.

    Args:
        plan: The plan.
        arms: Arms to train. Default: all.
        seeds: Seeds to train. Default: all of the plan's.
        jobs: Trainings side by side, with one thread each.
        stale: For results of another plan or config: `refuse`, `rerun`, or `keep` them.
        options: Changes of the config, for a trial.
        say: Gets a line for each event.

    Returns:
        The runs that failed, each with its log.

    Raises:
        ConfigError: For an unknown arm or seed, a config that does not fit, or stale results.
        Stopped: By SIGINT, SIGTERM or SIGHUP, after all trainings have ended.
    """
    for arm in arms:
        choose(arm, plan.arms, '--arms')
    for seed in seeds:
        choose(str(seed), [str(s) for s in plan.seeds], '--seeds')
    hashes = check_arms(plan, options)
    queue = []
    results = _usable(plan, read_results(plan), hashes, stale)
    for seed in seeds or plan.seeds:
        for arm in arms or plan.arms:
            if (arm, seed) in results:
                say(f'{arm}, seed {seed}: done before')
            else:
                queue.append((arm, seed))
    running: list[Training] = []
    failed: list[str] = []
    hopeless: set[str] = set()
    finished = {arm for arm, _ in results}
    with _signals() as received:
        try:
            while (queue or running) and not received:
                while queue and len(running) < jobs:
                    arm, seed = queue.pop(0)
                    if arm in hopeless:
                        say(f'{arm}, seed {seed}: left out, for another seed of this arm failed')
                        continue
                    training = _start(plan, arm, seed, hashes[arm, seed], stale, options, say)
                    if training is not None:
                        running.append(training)
                time.sleep(0.2)
                for training in [t for t in running if _ended(t, plan, say)]:
                    running.remove(training)
                    error = _collect(plan, training, say)
                    if error:
                        failed.append(error)
                        if training.arm not in finished:
                            hopeless.add(training.arm)
                    else:
                        finished.add(training.arm)
        finally:
            _stop(running, say)
    if received:
        say(f'stopped by {signal.Signals(received[0]).name}; the same command goes on')
        raise Stopped(128 + received[0])
    return failed


def _usable(
    plan: Plan, results: dict[tuple[str, int], dict], hashes: dict[tuple[str, int], str], stale: str
) -> dict[tuple[str, int], dict]:
    """Return the results that need no training."""
    choose(stale, ('refuse', 'rerun', 'keep'), 'stale')
    other = {run: what for run, r in results.items() if (what := is_stale(plan, r, hashes[run]))}
    if other and stale == 'refuse':
        listed = ', '.join(
            f'{result_path(plan, *run).name} (another {what})' for run, what in other.items()
        )
        raise ConfigError(
            f'{plan.folder / "results"}: results of another plan or config than the present one: '
            f'{listed}. Train them again with --stale rerun, or keep them with --stale keep: the '
            'report then says so'
        )
    return {run: r for run, r in results.items() if stale == 'keep' or run not in other}


def _start(
    plan: Plan,
    arm: str,
    seed: int,
    hashed: str,
    stale: str,
    options: dict[str, Any] | None,
    say: Callable[[str], None],
) -> Training | None:
    """Start a run, or go on with it; None if another process is at it."""
    folder = run_folder(plan, arm, seed)
    state = folder / 'run.json'
    folder.mkdir(parents=True, exist_ok=True)
    held = try_lock(folder / 'lock')
    if held is None:
        say(f'{arm}, seed {seed}: being trained by another process, left to it')
        return None
    known = _known(state)
    same = known.get('config_hash') == hashed and (
        known['plan_hash'] == plan.hash or stale == 'keep'
    )
    if known and not same:
        aside = folder.with_name(f'{folder.name}_old_{int(time.time())}')
        folder.rename(aside)  # with its lock, which no other call can get before
        held.close()
        say(f'{arm}, seed {seed}: a run of another plan or config, moved to {aside.name}')
        return _start(plan, arm, seed, hashed, stale, options, say)
    result = read_results(plan).get((arm, seed))
    if result is not None and not is_stale(plan, result, hashed):
        held.close()
        say(f'{arm}, seed {seed}: done by another process')
        return None
    cfg = run_config(plan, arm, seed, options)
    hook = dict(type='mmkd.StudyResultHook', expected=expected_metrics(plan, arm))
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    if 'mmkd' not in imports:
        cfg.custom_imports = dict(imports=[*imports, 'mmkd'], allow_failed_imports=False)
    write_config(cfg, folder / 'config.py')
    # The sources may change while a study runs, or before it goes on.
    commits = dict.fromkeys([*known.get('commits', []), source_commit()])
    known = dict(config_hash=hashed, plan_hash=plan.hash, commits=list(commits))
    write_text(state, json.dumps(known))
    command = [sys.executable, str(TRAIN), str(folder / 'config.py'), '--work-dir', str(folder)]
    with open(folder / 'train.log', 'a') as log:
        before = log.tell()
        process = subprocess.Popen(
            [*command, '--resume'],
            cwd=plan.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ONE_THREAD, 'PYTHONPATH': _python_path()},
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
            pass_fds=(held.fileno(),),  # a training that outlives this process keeps the lock
        )
    say(f'{arm}, seed {seed}: started, log {folder / "train.log"}')
    started = time.monotonic()
    return Training(arm, seed, hashed, list(commits), folder, process, held, started, before)


def _known(state: Path) -> dict:
    """Return what an earlier attempt noted of its run; nothing if there was none."""
    if not state.is_file():
        return {}
    try:
        known = json.loads(state.read_text())
        return dict(known, commits=list(known['commits']), plan_hash=str(known['plan_hash']))
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f'{state}: damaged ({error!r}); remove {state.parent}') from error


def _python_path() -> str:
    """The path under which this mmkd is found: the training uses the same sources."""
    own = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([own, *filter(None, [os.environ.get('PYTHONPATH')])])


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what a child does first so that it gets SIGTERM when this process dies (Linux)."""
    if not sys.platform.startswith('linux'):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return ask


def _ended(training: Training, plan: Plan, say: Callable[[str], None]) -> bool:
    if training.process.poll() is not None:
        return True
    if time.monotonic() - training.started > 60 * plan.max_minutes:
        say(f'{training.arm}, seed {training.seed}: over budget.max_minutes, stopped')
        _stop([training], say)
        return True
    return False


def _collect(plan: Plan, training: Training, say: Callable[[str], None]) -> str:
    """Write an ended training's result; returns what went wrong, or ''."""
    _kill_group(training.process)
    training.lock.close()
    name = f'{training.arm}, seed {training.seed}'
    file = training.folder / StudyResultHook.file
    status = training.process.returncode
    if status != 0 or not file.is_file():
        log = training.folder / 'train.log'
        say(f'{name}: exit status {status}{_last_error(log, training.log_before)}')
        return f'{name}, see {log}'
    run = json.loads(file.read_text())
    try:
        path = write_result(plan, training.arm, training.seed, training.hash, training.commits, run)
    except ConfigError as error:
        say(f'{name}: {error}')
        return f'{name}: {error}'
    say(f'{name}: done in {run["minutes"]:.1f} min, {path}')
    return ''


def _last_error(log: Path, start: int) -> str:
    text = log.read_bytes()[start:].decode(errors='replace')
    lines = [line for line in text.splitlines() if 'rror: ' in line]
    return f': {lines[-1].strip()}' if lines else ''


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Note SIGINT, SIGTERM and SIGHUP in the list instead of ending at once.

    What is ignored stays so: `nohup` ignores SIGHUP.
    """
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(trainings: Sequence[Training], say: Callable[[str], None]) -> None:
    """End trainings: they may save a checkpoint first; what is left then is killed."""
    for training in trainings:
        if training.process.poll() is None:
            training.process.terminate()
    if trainings:
        say(f'waiting for {len(trainings)} training(s) to save a checkpoint')
    until = time.monotonic() + GRACE
    for training in trainings:
        try:
            training.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            say(f'{training.arm}, seed {training.seed}: killed, {GRACE:.0f} s after the signal')
        _kill_group(training.process)
        training.process.wait()
        training.lock.close()


def _kill_group(process: subprocess.Popen) -> None:
    """Kill what is left of a training's process group: its loaders' workers, for one."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
