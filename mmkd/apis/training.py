"""Building a Runner, and what may go wrong on the way, apart from what goes wrong in a training."""

from __future__ import annotations

import argparse
import functools
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmkd.apis.command_line import check_optimizers, import_toolbox, load_config
from mmkd.apis.origins import write_origin
from mmkd.apis.pretraining import Pretraining
from mmkd.export import readable, self_contained
from mmkd.utils.checkpoint import check_members, find_latest, hand_over, load_file, only_weights
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import (
    ConfigError,
    MachineError,
    message_of,
    shown_without_traceback,
)

# The methods by which a Runner builds what its config describes, some of them not before
# `train()` or `test()`.
BUILDERS = (
    'build_train_loop',
    'build_val_loop',
    'build_test_loop',
    'build_optim_wrapper',
    'build_param_scheduler',
    'scale_lr',
    '_init_model_weights',
    'load_or_resume',
)

KILLED_WORKER = re.compile(
    r'DataLoader worker \(pid.*?\) (is killed by signal: \w+|exited unexpectedly)'
)

# Those that tell optimizers apart; torch adds others from version to version.
HYPERPARAMETERS = {
    'alpha',
    'betas',
    'dampening',
    'delta',
    'eps',
    'lambd',
    'momentum',
    'nesterov',
    'rho',
}


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of a config; an error while it builds, now or later, is a ConfigError."""
    import_toolbox(cfg)
    with only_weights(), naming_keys(cfg):
        runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    for name in BUILDERS:
        setattr(runner, name, _naming(getattr(runner, name), cfg))
    return runner


def _naming(build: Callable, cfg: Config) -> Callable:
    @functools.wraps(build)
    def named(*args: Any, **kwargs: Any) -> Any:
        with only_weights(), naming_keys(cfg):
            return build(*args, **kwargs)

    return named


@contextmanager
def told_of_killed_workers() -> Iterator[None]:
    """Turn torch's error about a loader's process that was killed into a MachineError."""
    try:
        yield
    except RuntimeError as error:
        found = KILLED_WORKER.search(str(error))
        if found is None:
            raise
        raise MachineError(
            f'a process that loads images was ended from outside ({found.group()}): often the '
            'memory, or the shared memory (/dev/shm), was full; lower num_workers or batch_size, '
            'then go on with --resume'
        ) from error


@contextmanager
def traceback_in_log(runner: Runner) -> Iterator[None]:
    """Write what ends the block to the log files, too; on the screen Python shows it by itself.

    Raises:
        MachineError: If a process that loads images was killed.
    """
    try:
        with told_of_killed_workers():
            yield
    except Exception as error:
        brief = shown_without_traceback(error)
        text = f'error: {message_of(error)}' if brief else traceback.format_exc()
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.acquire()
                try:
                    # On a full disk the error itself is what is to be seen.
                    with suppress(OSError), open(handler.baseFilename, 'a') as file:
                        file.write(f'{text}\n')
                finally:
                    handler.release()
        raise


def find_checkpoint(cfg: Config) -> tuple[str, Any] | None:
    """Return the path and content of the checkpoint that `--resume` without a name goes on from.

    Raises:
        ConfigError: If there are checkpoints in the work folder, but none can be used.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folders: tuple[Path, ...] = ()
    if hook.get('out_dir'):
        folders = (Path(hook['out_dir']) / Path(cfg.work_dir).name,)
    return find_latest(cfg.work_dir, folders, hook.get('filename_tmpl'))


def check_start(cfg: Config) -> Any:
    """Raise a ConfigError if `load_from` of an OnlineDistiller's config loads nothing.

    mmengine loads the weights whose names it finds and leaves the rest at their initial values.

    Returns:
        The checkpoint, None if the config names none.
    """
    if cfg.get('load_from') is None or 'members' not in cfg.model:
        return None
    checkpoint = load_file(cfg.load_from, 'load_from')
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else {}
    names = [name for name, member in cfg.model.members.items() if member is not None]
    if not any(str(key).startswith(tuple(f'members.{name}.' for name in names)) for key in state):
        raise ConfigError(
            f'load_from: {cfg.load_from!r} has no weights of the members {names} (a plain '
            'checkpoint?): name it as the start of each member that it fits, '
            'model.members.<name>.checkpoint'
        )
    return checkpoint


def check_resumed(runner: Runner, checkpoint: Any, key: str) -> None:
    """Raise a ConfigError unless a training can go on from a checkpoint exactly.

    Builds the training loop and the optimizers, as `Runner.train()` is about to.

    Args:
        runner: Built, not trained yet.
        checkpoint: As `load_file` gives it.
        key: What the message begins with.
    """
    if not (
        isinstance(checkpoint, dict) and {'meta', 'optimizer', 'state_dict'} <= set(checkpoint)
    ):
        raise ConfigError(f'{key} is no checkpoint of a training (it has no optimizer states)')
    check_members(runner.model, checkpoint, key)
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        _check_epoch(len(runner.train_loop.dataloader), checkpoint, key)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    _check_optimizers(runner, checkpoint['optimizer'], key)


def _check_epoch(length: int, checkpoint: dict, key: str) -> None:
    info = (checkpoint.get('message_hub') or {}).get('runtime_info') or {}
    epochs, iterations = info.get('max_epochs'), info.get('max_iters')
    if not (isinstance(epochs, int) and isinstance(iterations, int) and epochs > 0):
        return
    if iterations // epochs != length:
        raise ConfigError(
            f'{key}: its epochs have {iterations // epochs} iterations, those of this config '
            f'{length}: batch size, number of processes and data must be those of the checkpoint'
        )


def _check_optimizers(runner: Runner, states: Any, key: str) -> None:
    """Compare the optimizers' kinds; a learning rate in the config is not used, which is said."""
    wrapper = runner.optim_wrapper
    named = dict(wrapper.items()) if hasattr(wrapper, 'items') else {'': wrapper}
    for name, own in named.items():
        state = states.get(name) if name else states
        where = f'{key}: the optimizer' + (f' of {name!r}' if name else '')
        if not isinstance(state, dict) or 'param_groups' not in state:
            raise ConfigError(f'{where} has no states in it')
        groups = own.optimizer.param_groups
        if len(groups) != len(state['param_groups']):
            raise ConfigError(
                f'{where} has {len(state["param_groups"])} groups of parameters, this one '
                f'{len(groups)}: paramwise_cfg must be that of the checkpoint'
            )
        for group, saved in zip(groups, state['param_groups']):
            missing = sorted((set(group) & HYPERPARAMETERS) - set(saved))
            unknown = sorted((set(saved) & HYPERPARAMETERS) - set(group))
            if missing or unknown or len(group['params']) != len(saved['params']):
                needs = f'has no {", ".join(unknown)}' if unknown else ''
                needs = f'needs {", ".join(missing)}' if missing else needs
                raise ConfigError(
                    f'{where} was another one: {type(own.optimizer).__name__} '
                    f'{needs or "needs other parameters"}; resume with the optimizer of the '
                    'checkpoint, or start anew from its weights (load_from)'
                )
        first, saved = groups[0], state['param_groups'][0]
        start = saved.get('initial_lr', saved['lr'])
        if abs(first['lr'] - start) > 1e-9 * abs(start):
            runner.logger.warning(
                f'{where} goes on with the learning rate of the checkpoint ({start:g}); that of '
                f'the config ({first["lr"]:g}) is not used'
            )


def train(args: argparse.Namespace) -> None:
    """Train as the command line of tools/train.py says.

    Raises:
        ConfigError: For a wrong input, before the training starts.
    """
    _train(load_config(args.config, args), args)


def _train(cfg: Config, args: argparse.Namespace) -> None:
    stage = Pretraining.of(cfg)
    if stage is not None:
        _train_before(stage, cfg, args)
    check_optimizers(cfg)
    if args.amp:
        _use_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError("--auto-scale-lr: the config has no 'auto_scale_lr.base_batch_size'")
        cfg.auto_scale_lr.enable = True
    resume = args.resume
    if resume is None and cfg.get('resume'):  # the config's own `resume = True`
        resume = cfg.get('load_from') or 'auto'
    checkpoint = _checkpoint_to_resume(cfg, resume)
    if checkpoint is None and (start := check_start(cfg)) is not None:
        hand_over(cfg.load_from, start)
        del start
    if 'members' in cfg.model:
        self_contained(cfg)
    runner = build_runner(readable(cfg))
    with traceback_in_log(runner):
        if checkpoint is not None:
            check_resumed(runner, checkpoint, f'--resume: {cfg.load_from!r}')
            hand_over(cfg.load_from, checkpoint)
            del checkpoint
        write_origin(runner.log_dir)
        runner.train()


def _train_before(stage: Pretraining, cfg: Config, args: argparse.Namespace) -> None:
    """Train the members that `pretrain` names unless that is done; freeze them in `cfg`."""
    names = ', '.join(stage.members)
    found = stage.checkpoints()
    if found is None:
        print(f'pretrain: {names}, in {stage.folder}')
        import_toolbox(cfg)  # with what the other members need
        stage.check_next(cfg)
        if args.resume is None and not cfg.get('resume'):
            check_start(cfg)
        # The processes of one launch train together.
        with stage.alone() if args.launcher == 'none' else nullcontext():
            found = stage.checkpoints()  # another process may have trained them meanwhile
            if found is None:
                stage.begin()
                resume = 'auto' if args.resume is not None or cfg.get('resume') else None
                with stage.preempted_noted(cfg.work_dir):
                    _train(stage.cfg, argparse.Namespace(**dict(vars(args), resume=resume)))
                latest = find_checkpoint(stage.cfg)
                stage.finish(None if latest is None else latest[0])
                found = stage.checkpoints()
        assert found is not None, 'it has just been finished'
    else:
        print(f'pretrain: {names}: trained before, {", ".join(sorted(set(found.values())))}')
    stage.freeze(cfg, found)


def _use_amp(cfg: Config) -> None:
    import torch

    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if torch.cuda.is_available():
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    else:
        cfg.optim_wrapper.dtype = 'bfloat16'


def _checkpoint_to_resume(cfg: Config, resume: str | None) -> Any:
    """Set `load_from` and `resume` of the config; return the checkpoint, None to start anew."""
    if resume is None:
        return None
    if resume == 'auto':
        found = find_checkpoint(cfg)
        print(
            f'--resume: {found[0] if found else f"no checkpoint in {cfg.work_dir}, starting anew"}'
        )
    else:
        found = resume, load_file(resume, '--resume')
    cfg.resume = found is not None
    if found is None:
        cfg.load_from = None
        return None
    cfg.load_from, checkpoint = found
    if checkpoint is None:
        raise ConfigError(f'--resume: {cfg.load_from!r} is no checkpoint of a training')
    return checkpoint
