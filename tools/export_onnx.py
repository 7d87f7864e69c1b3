"""Write a student, or the ensemble as one graph, as ONNX: export_onnx.py CKPT OUT.onnx

It is checked against PyTorch with onnxruntime before it is written. Needs the extra `onnx`.
"""

import argparse

from mmkd.apis.command_line import positive, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint (.pth) of a training or of an export')
    parser.add_argument('out', help='where to write: OUT.onnx')
    parser.add_argument('--member', help='a member of the training (default: the ensemble)')
    parser.add_argument('--config', help='config of the checkpoint (default: the one beside it)')
    parser.add_argument(
        '--size',
        type=positive,
        nargs=2,
        metavar=('H', 'W'),
        help="height and width of the input (default: the test pipeline's)",
    )
    parser.add_argument(
        '--temperature',
        default='1',
        metavar='T',
        help='what the log-odds are divided by: a number, or a file of calibrate.py (default: 1)',
    )
    parser.add_argument(
        '--runs', type=positive, default=20, help='runs measured at batch 1 (default: 20)'
    )
    return parser.parse_args()


def main() -> None:
    """Export."""
    args = parse_args()

    from mmkd.apis.onnx import export_onnx

    size = None if args.size is None else tuple(args.size)
    print(
        export_onnx(
            args.checkpoint,
            args.out,
            args.member,
            args.config,
            size,
            args.temperature,
            args.runs,
        )
    )


if __name__ == '__main__':
    run_tool(main)
