"""Write a member's plain checkpoint and plain config: python tools/export_student.py CKPT MEMBER OUT.pth"""

import argparse
from pathlib import Path

from mmengine.config import Config

from mmkd.apis.command_line import run_tool
from mmkd.export import export_member
from mmkd.utils.checkpoint import load_file
from mmkd.utils.errors import ConfigError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'checkpoint', help='a checkpoint of the training (work_dirs/.../epoch_N.pth)'
    )
    parser.add_argument(
        'member', help="the member's name, or 'ensemble' (a config that needs mmkd)"
    )
    parser.add_argument('out', help='where to write: OUT.pth, and OUT.py beside it')
    parser.add_argument(
        '--config', help='the training config (default: the one inside the checkpoint)'
    )
    return parser.parse_args()


def main():
    args = parse_args()
    checkpoint = load_file(args.checkpoint, 'checkpoint')
    meta = checkpoint.get('meta', {}) if isinstance(checkpoint, dict) else {}
    if args.config is None and 'cfg' not in meta:
        raise ConfigError(f'{args.checkpoint}: no config inside; name it by --config')
    if args.config is not None and not Path(args.config).is_file():
        raise FileNotFoundError(f'--config: no file {args.config!r}')
    cfg = (
        Config.fromfile(args.config)
        if args.config
        else Config.fromstring(meta['cfg'], file_format='.py')
    )
    files = export_member(
        cfg, checkpoint.get('state_dict', {}), args.member, args.out, meta.get('dataset_meta')
    )
    print('\n'.join(f'wrote {path}' for path in files))


if __name__ == '__main__':
    run_tool(main)
