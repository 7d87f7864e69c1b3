"""Train the members of an mmkd config together (or any MM config): python tools/train.py CONFIG [options]."""

import argparse

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd.apis.command_line import add_run_arguments, check_optimisers, load_config, run_tool
from mmkd.utils.checkpoint import check_members, latest_whole, load_file
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    add_run_arguments(parser)
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (on a machine without GPU: bfloat16)'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rates to the batch size in use',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the latest of the work folder if none is named',
    )
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args.config, args)
    check_optimisers(cfg)
    if args.amp:
        import torch

        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        if torch.cuda.is_available():
            cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        else:
            cfg.optim_wrapper.dtype = 'bfloat16'
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError("--auto-scale-lr: the config has no 'auto_scale_lr.base_batch_size'")
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        if args.resume == 'auto':
            cfg.load_from = latest_whole(cfg.work_dir)
            print(f'--resume: {cfg.load_from or f"no checkpoint in {cfg.work_dir}, starting anew"}')
        else:
            cfg.load_from = args.resume
        cfg.resume = cfg.load_from is not None
    checkpoint = load_file(cfg.load_from, '--resume') if cfg.resume else None
    if checkpoint is not None and not (
        isinstance(checkpoint, dict) and {'meta', 'optimizer', 'state_dict'} <= set(checkpoint)
    ):
        raise ConfigError(
            f'--resume: {cfg.load_from!r} is no checkpoint of a training (it has no optimiser states)'
        )
    with naming_keys(cfg):
        runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
        if checkpoint is not None:
            check_members(runner.model, checkpoint, f'--resume: {cfg.load_from!r}')
            del checkpoint
        runner.train()


if __name__ == '__main__':
    run_tool(main)
