"""Predict on images, a folder, a list, a video or a camera: infer.py MODEL INPUT --out DIR

MODEL is a checkpoint of a training, or an exported student or ensemble. DIR gets the drawn frames
(of a video one overlay video) and by member COCO JSON, masks or labels, and CSV.
"""

import argparse

from mmkd.apis.command_line import positive, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help='checkpoint (.pth) of a training or of an export')
    parser.add_argument(
        'input',
        nargs='+',
        help='images, a folder, a .txt with a path per line, a video, or a camera, camera:0 or '
        'camera:ADDRESS (Ctrl-C ends it)',
    )
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder of the results, outside of the input'
    )
    parser.add_argument('--config', help='config of the checkpoint (default: the one beside it)')
    parser.add_argument(
        '--member',
        nargs='+',
        metavar='NAME',
        help="predict with these, 'ensemble' among them (default: the ensemble)",
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1 (default: a GPU if there is one)')
    parser.add_argument(
        '--batch-size', type=positive, default=1, help='frames in one pass (default: 1)'
    )
    parser.add_argument('--limit', type=positive, metavar='N', help='the first N frames only')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a box (default: 0.3)'
    )
    parser.add_argument(
        '--smooth',
        type=positive,
        nargs=2,
        metavar=('K', 'N'),
        help='videos: keep a box only if K of the last N frames have it',
    )
    parser.add_argument('--no-draw', action='store_true', help='write no drawn frames, no video')
    parser.add_argument(
        '--latency',
        type=positive,
        metavar='N',
        help='also measure the time for a frame at batch 1, on the first N frames',
    )
    return parser.parse_args()


def main() -> None:
    """Predict."""
    args = parse_args()

    from mmkd.apis.inference.run import infer

    infer(args)


if __name__ == '__main__':
    run_tool(main)
