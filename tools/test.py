"""Evaluate the members and the ensemble of an mmkd config in one pass: python tools/test.py CONFIG CHECKPOINT [options]."""

import argparse

from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmkd.apis.command_line import add_run_arguments, load_config, metric_table, run_tool
from mmkd.utils.checkpoint import check_members, load_file, member_state
from mmkd.utils.checks import choose
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError

DUMPS = {'mmdet': 'DumpDetResults'}  # masks compressed


def draw(cfg, args):
    """Switch the toolbox's visualization hook on; each names its options its own way."""
    hook = cfg.default_hooks.visualization
    hook.update(dict(enable=True) if hook.type == 'VisualizationHook' else dict(draw=True))
    hook.update(show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        if hook.type == 'DetVisualizationHook':
            hook.test_out_dir = args.show_dir
        elif hook.type == 'VisualizationHook':
            hook.out_dir = args.show_dir
        else:
            cfg.visualizer.save_dir = args.show_dir


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_run_arguments(parser)
    parser.add_argument(
        '--member', nargs='+', metavar='NAME', help="evaluate only these ('ensemble' among them)"
    )
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='dump predictions, a file for each: FILE_<member>.pkl'
    )
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help="draw predictions (the ensemble's, or the last --member's) into DIR, for detection WORK_DIR/<time>/DIR",
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation: the toolbox's, as `tta_model` and `tta_pipeline` of the config have it",
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a picture is shown')
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args.config, args)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out: expected a path that ends in .pkl, got {args.out!r}')
    checkpoint = load_file(args.checkpoint, 'checkpoint')
    members = [name for name, member in cfg.model.get('members', {}).items() if member is not None]
    for name in args.member or []:
        choose(name, [*members, 'ensemble'], '--member')
    if members:
        if not any(key.startswith('members.') for key in checkpoint.get('state_dict', {})):
            raise ConfigError(
                f'{args.checkpoint}: a checkpoint without members (an exported one?) cannot serve {args.config}; '
                'test an exported student with the config beside it'
            )
        for name in members:
            if cfg.model.members[name].get('training') != 'frozen':
                member_state(checkpoint, name, args.checkpoint)
        if args.member:
            cfg.test_cfg.members = args.member
    elif args.member:
        raise ConfigError(f'--member: {args.config} has no members')
    if args.show or args.show_dir:
        draw(cfg, args)
    if args.out is not None:
        metrics = (
            cfg.test_evaluator
            if isinstance(cfg.test_evaluator, (list, tuple))
            else [cfg.test_evaluator]
        )
        cfg.test_evaluator = [
            *metrics,
            dict(type=DUMPS.get(cfg.get('default_scope'), 'DumpResults'), out_file_path=args.out),
        ]
    if args.tta:
        if args.show or args.show_dir:
            raise ConfigError(
                "--tta: the toolboxes' drawing hooks cannot draw augmented batches; leave out --show and --show-dir"
            )
        for key in ('tta_model', 'tta_pipeline'):
            if key not in cfg:
                raise ConfigError(f'--tta: {args.config} has no {key!r}')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(cfg.tta_model, module=cfg.model)
    cfg.load_from, cfg.resume = args.checkpoint, False
    with naming_keys(cfg):
        runner = Runner.from_cfg(cfg)
        check_members(runner.model, checkpoint, repr(args.checkpoint))
        metrics = runner.test()
    if members and is_main_process():
        rows = args.member or [*members, 'ensemble']
        columns = {
            key.split('/', 1)[1]: key.split('/')[-1]
            for key in metrics
            if key.startswith(f'{rows[0]}/')
        }
        print(metric_table(metrics, rows, columns))


if __name__ == '__main__':
    run_tool(main)
