"""Evaluating the members and the ensemble of a training."""

from __future__ import annotations

import argparse
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmkd.apis.command_line import load_config, metric_table
from mmkd.apis.loading import test_dataset
from mmkd.apis.pretraining import freeze_pretrained
from mmkd.apis.training import build_runner, traceback_in_log
from mmkd.export import member_specs, unwritten
from mmkd.models.distillers.member_spec import MemberSpec
from mmkd.utils.checkpoint import check_members, hand_over, load_file, member_state
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.test_sets import gap_tables

DUMPS = {'mmdet': 'DumpDetResults', 'mmseg': 'mmkd.DumpSegResults'}  # masks, maps compressed


def test(args: argparse.Namespace) -> None:
    """Evaluate as the command line of tools/test.py says, and print the table of all members.

    Raises:
        ConfigError: For a wrong input, before anything is measured.
    """
    cfg = load_config(args.config, args)
    freeze_pretrained(cfg, args.checkpoint)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out: expected a path that ends in .pkl, got {args.out!r}')
    checkpoint = load_file(args.checkpoint, 'checkpoint')
    members = member_specs(cfg) if 'members' in cfg.model else {}
    if members:
        _choose_members(cfg, checkpoint, members, args)
    elif args.member:
        raise ConfigError(f'--member: {args.config} has no members')
    if args.show or args.show_dir:
        _draw(cfg, args)
    if args.out is not None:
        _dump(cfg, args)
    elif args.out_logits:
        raise ConfigError('--out-logits: there is no --out')
    if args.tta:
        _augment(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    runner = build_runner(unwritten(cfg))
    with traceback_in_log(runner):
        check_members(runner.model, checkpoint, repr(args.checkpoint))
        hand_over(args.checkpoint, checkpoint)
        metrics = runner.test()
    if members and is_main_process():
        print(_tables(metrics, args.member or [*members, 'ensemble']))


def _tables(metrics: dict[str, Any], rows: list[str]) -> str:
    by_member = {
        row: {k.removeprefix(f'{row}/'): v for k, v in metrics.items() if k.startswith(f'{row}/')}
        for row in rows
    }
    return gap_tables(by_member) or metric_table(*_rows_and_columns(metrics, rows))


def _rows_and_columns(
    metrics: dict[str, Any], rows: list[str]
) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """Name the columns that any row has, in the metrics' order; only numbers are shown."""
    numbers = {k: v for k, v in metrics.items() if isinstance(v, Real)}
    columns: dict[str, str] = {}
    for row in rows:
        for key in numbers:
            if key.startswith(f'{row}/'):
                name = key.split('/', 1)[1]
                columns.setdefault(name, name.split('/')[-1])
    return numbers, rows, columns


def _choose_members(
    cfg: Config, checkpoint: Any, members: dict[str, MemberSpec], args: argparse.Namespace
) -> None:
    for name in args.member or []:
        choose(name, [*members, 'ensemble'], '--member')
    state = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not any(str(key).startswith('members.') for key in state):
        raise ConfigError(
            f'{args.checkpoint}: a checkpoint without members (an exported one?) cannot serve '
            f'{args.config}; test an exported student with the config beside it'
        )
    for name, spec in members.items():
        if spec.training != 'frozen':
            member_state(checkpoint, name, args.checkpoint)
    if args.member:
        cfg.test_cfg.members = args.member


def _draw(cfg: Config, args: argparse.Namespace) -> None:
    """Switch the toolbox's visualization hook on; each names its options its own way."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ConfigError('--show, --show-dir: the config has no default_hooks.visualization')
    hook.update(dict(enable=True) if hook.type == 'VisualizationHook' else dict(draw=True))
    hook.update(show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        if hook.type == 'DetVisualizationHook':
            hook.test_out_dir = args.show_dir
        elif hook.type == 'VisualizationHook':
            hook.out_dir = args.show_dir
        else:
            cfg.visualizer.save_dir = args.show_dir


def _dump(cfg: Config, args: argparse.Namespace) -> None:
    evaluator = cfg.test_evaluator
    several = isinstance(evaluator, dict) and 'metrics' in evaluator
    metrics = evaluator['metrics'] if several else evaluator
    metrics = list(metrics) if isinstance(metrics, list | tuple) else [metrics]
    kind = DUMPS.get(cfg.get('default_scope'), 'DumpResults')
    dump: dict[str, Any] = dict(type=kind, out_file_path=str(Path(args.out)))
    if args.out_logits:
        if 'Seg' not in kind:
            raise ConfigError('--out-logits: for segmentation, whose files are without them')
        dump['logits'] = True
    if several:
        evaluator['metrics'] = [*metrics, dump]
    else:
        cfg.test_evaluator = [*metrics, dump]


def _augment(cfg: Config, args: argparse.Namespace) -> None:
    if args.show or args.show_dir:
        raise ConfigError(
            "--tta: the toolboxes' drawing hooks cannot draw augmented batches; leave out --show "
            'and --show-dir'
        )
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise ConfigError(f'--tta: {args.config} has no {key!r}')
    test_dataset(cfg)['pipeline'] = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)
