"""Images and masks of polyps to COCO boxes and label maps.

FOLDER is a data set as it is published: Kvasir-SEG, CVC-ClinicDB, CVC-300, CVC-ColonDB, ETIS,
PolypGen, SUN-SEG, LDPolypVideo (boxes alone), PraNet's TrainDataset and TestDataset/<set>, or
several of them.
"""

import argparse
import signal
import sys
from pathlib import Path

from mmkd.apis.command_line import run_tool
from mmkd.utils.errors import ConfigError, wrong_paths


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s [options] IMAGES MASKS OUT | FOLDER OUT',
    )
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='PATH',
        help='folder of images, folder of masks with the same file stems, folder to write; or the '
        'folder of a published data set, and the folder to write',
    )
    parser.add_argument(
        '--split',
        action='append',
        default=[],
        metavar='NAME=LIST.txt',
        help='a split (train, val or test) and its list of file stems, e.g. train=train.txt; '
        'repeat for each (default: the published split, or a random cut into train and val)',
    )
    parser.add_argument(
        '--one-split', metavar='NAME', help='put all images into one split: train, val or test'
    )
    parser.add_argument(
        '--test',
        nargs='+',
        default=[],
        metavar='SET',
        help='sets in FOLDER to hold out, each as a split test_SET (the table names the sets)',
    )
    parser.add_argument(
        '--sequence',
        metavar='RULE',
        help='what stays together in the random cut, so that neighboring frames of a video or '
        'images of a patient are not in train and in val: folder, a regular expression, or '
        'FILE.csv:COLUMN (default: the sequence_id of a metadata.csv beside a set in FOLDER, the '
        'sequences of CVC-ClinicDB by its numbers, else each image for itself)',
    )
    parser.add_argument(
        '--train-ratio',
        type=float,
        help='share of train in the random cut (default: 0.9; a published training set is cut only '
        'if this is given)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the random cut (default: 0)')
    parser.add_argument(
        '--boxes',
        metavar='FILE.json',
        help="Kvasir-SEG's file of boxes (kavsir_bboxes.json), in place of boxes around the masks' "
        'components',
    )
    parser.add_argument(
        '--min-area',
        type=float,
        metavar='SHARE_OR_PIXELS',
        help="components below it are specks and dropped: below 1 a share of the image's area, "
        'else pixels (default: 0.0002 of the area, and 16 pixels at least)',
    )
    parser.add_argument(
        '--strict',
        action='store_true',
        help='fail where a file cannot be used, instead of leaving it out',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace OUT, if a converter has made it'
    )
    args = parser.parse_args()
    if len(args.paths) not in (2, 3):
        parser.error('expected IMAGES MASKS OUT, or FOLDER OUT')
    return args


def main() -> None:
    """Convert, and print what was found."""
    arguments = vars(parse_args())

    from mmkd.datasets.converters.polyps import PolypOptions, convert_polyp_folder, convert_polyps

    paths, lists = arguments.pop('paths'), arguments.pop('split')
    splits: dict[str, str] = {}
    for item in lists:
        name, equals, path = item.partition('=')
        if not (name and equals and path):
            raise ConfigError(f'--split: expected NAME=LIST.txt, got {item!r}')
        if name in splits:
            raise ConfigError(f'--split: {name!r} is given twice')
        splits[name] = path
    options = PolypOptions(splits=splits, **arguments)
    convert = convert_polyps if len(paths) == 3 else convert_polyp_folder
    with wrong_paths():
        report = convert(*paths, options)
    print(f'\n{report.table()}\nwrote {Path(paths[-1]).absolute()}')


if __name__ == '__main__':
    # A stopped job leaves nothing half-written either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_tool(main)
    except KeyboardInterrupt:
        sys.exit('\nstopped: nothing was written')
