"""Kvasir-SEG / CVC-ClinicDB style folders to COCO boxes and label maps: python tools/convert_polyp.py IMAGES MASKS OUT"""
import argparse
from pathlib import Path

from mmkd.apis.command_line import run_tool
from mmkd.datasets.convert import SPECK_SHARE, convert_polyps


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', help='folder of images')
    parser.add_argument('masks', help='folder of masks with the same file stems')
    parser.add_argument('out', help='folder to write, e.g. data/kvasir')
    parser.add_argument('--split', action='append', default=[], metavar='NAME=LIST.txt',
                        help='a split and its list of file stems, e.g. train=train.txt; repeat for each (default: a random cut)')
    parser.add_argument('--train-ratio', type=float, default=0.9, help='share of train in the random cut (default: 0.9)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random cut (default: 0)')
    parser.add_argument('--speck-share', type=float, default=SPECK_SHARE,
                        help=f"components below this share of the image's area are dropped (default: {SPECK_SHARE})")
    parser.add_argument('--strict', action='store_true', help='fail where a file cannot be used')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT')
    return parser.parse_args()


def main():
    args = parse_args()
    options = vars(args)
    splits = {}
    for item in options.pop('split'):
        name, equals, path = item.partition('=')
        if not (name and equals and path):
            raise ValueError(f'--split: expected NAME=LIST.txt, got {item!r}')
        splits[name] = path
    report = convert_polyps(splits=splits, **options)
    print(f'\n{"split":8}{"images":>8}{"boxes":>8}')
    for split in report.images:
        print(f'{split:8}{report.images[split]:8}{report.boxes[split]:8}')
    for what, names in (('unreadable, left out', report.unreadable), ('mask of another size, left out', report.other_size),
                        ('image without mask, left out', report.without_mask), ('mask without image', report.without_image),
                        ('empty mask, kept as negative', report.empty)):
        if names:
            print(f'{what}: {len(names)}: {", ".join(names[:20])}{", ..." if len(names) > 20 else ""}')
    print(f'wrote {Path(args.out).absolute()}')


if __name__ == '__main__':
    run_tool(main)
