"""Write a member's plain checkpoint and plain config: export_student.py CKPT MEMBER OUT.pth"""

import argparse

from mmkd.apis.command_line import run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'checkpoint', help='a checkpoint of the training (work_dirs/.../epoch_N.pth)'
    )
    parser.add_argument(
        'member', help="the member's name, or 'ensemble' (a config that needs mmkd)"
    )
    parser.add_argument('out', help='where to write: OUT.pth, and OUT.py beside it')
    parser.add_argument(
        '--config', help="the training config (default: the one in the checkpoint's folder)"
    )
    parser.add_argument(
        '--temperature',
        default='1',
        metavar='T',
        help='what the logits are divided by: a number, or a file of calibrate.py (default: 1)',
    )
    return parser.parse_args()


def main() -> None:
    """Export."""
    args = parse_args()

    from mmkd.apis.exporting import export

    files = export(args.checkpoint, args.member, args.out, args.config, args.temperature)
    print('\n'.join(f'wrote {path}' for path in files))


if __name__ == '__main__':
    run_tool(main)
