"""From images and masks of polyps to COCO boxes and MMSegmentation's label maps."""

from collections import Counter
from os.path import abspath
from pathlib import Path

from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import is_listable, printable

from .layouts import Pair, check_names, find_parts, image_files, match, read_parts, split_of
from .output import check_apart, whole_folder
from .polyp_options import PolypOptions
from .polyp_report import PolypReport
from .polyp_splits import share_out
from .polyp_writer import PolypWriter, read_boxes
from .sequence_tables import with_sequences

BOXES = '*_bboxes.json'  # Kvasir-SEG's is spelled kavsir_bboxes.json


def convert_polyps(
    images: str | Path,
    masks: str | Path,
    out: str | Path,
    options: PolypOptions | None = None,
) -> PolypReport:
    """Convert a folder of images and one of masks, matched by file stem, whole or not at all.

    Written: `images/<split>/` (copies), `masks/<split>/*.png` (label maps: 0 background, 1 polyp),
    `annotations/<split>.json` (COCO boxes and outlines, one per connected component).

    Args:
        images: Folder of images, with folders in it or not.
        masks: Folder of masks with the same file stems.
        out: Folder to write.
        options: Default: a random cut into `train` and `val`.

    Returns:
        Counts and the names of what was left out. Images with an empty mask stay, as negatives.

    Raises:
        ConfigError: With one message that names the file.
        MissingData: If a folder or list is missing, or a folder has no images.
        ExistingData: If `out` is there and is not to be overwritten.
    """
    check_apart(out, dict(IMAGES=images, MASKS=masks))
    if options and options.test:
        raise ConfigError('--test: names sets in FOLDER; IMAGES and MASKS are one set')
    image_paths, mask_paths = image_files(Path(images), 'IMAGES'), image_files(Path(masks), 'MASKS')
    matched = match(image_paths, mask_paths)
    used, report = set(matched.values()), PolypReport()
    report.without_mask = [path.name for stem, path in image_paths.items() if stem not in matched]
    report.without_image = [path.name for path in mask_paths.values() if path not in used]
    pairs = [
        Pair(stem.replace('/', '_'), path.relative_to(images).as_posix(), path, matched[stem])
        for stem, path in image_paths.items()
        if stem in matched
    ]
    return _convert(pairs, out, options or PolypOptions(), report)


def convert_polyp_folder(
    folder: str | Path, out: str | Path, options: PolypOptions | None = None
) -> PolypReport:
    """Convert a data set in the layout that it is published in, whole or not at all.

    Read are Kvasir-SEG (`images`, `masks`), CVC-ClinicDB (`Original`, `Ground Truth`), ETIS and
    CVC-ColonDB (a folder beside `Ground Truth`), CVC-300 (`bbdd`, `gtpolyp`), PraNet's
    `TrainDataset` and `TestDataset/<set>`, PolypGen's centers (`data_C1/images_C1`,
    `data_C1/masks_C1`), SUN-SEG (`Frame/<case>`, `GT/<case>`), LDPolypVideo (`Images/<video>`,
    `Annotations/<video>/*.txt`: boxes, no label maps), and several of these beside each other. A
    published split is kept; each of several test sets becomes a split `test_<set>`. The first words
    of the folders' names tell it, or of FOLDER's own (`TestDataset` alone). Of images that several
    splits have, byte for byte, the ones for training are left out. In a random cut, sequences stay
    together that a `metadata.csv` beside a set's folders lists, and CVC-ClinicDB's, which are known
    by its numbers.

    Args:
        folder: The data set.
        out: Folder to write, as `convert_polyps`.
        options: Default: the published split, or a random cut into `train` and `val`.

    Returns:
        As `convert_polyps`.

    Raises:
        ConfigError: With one message that names the file or folder.
        MissingData: If a folder or list is missing, or a folder has no images.
        ExistingData: If `out` is there and is not to be overwritten.
    """
    check_apart(out, dict(FOLDER=folder))
    options = options or PolypOptions()
    parts, in_no_set = find_parts(Path(folder))
    for name in options.test:
        choose(name, [part.name for part in parts], '--test')
    parts = [p._replace(split='test') if p.name in options.test else p for p in parts]
    report = PolypReport(in_no_set=in_no_set)
    # PraNet's TestDataset alone. A FOLDER that is named for training is cut as any other set, and
    # so is any whose cut the options ask for.
    is_test = split_of(Path(abspath(folder)).name) == 'test'
    is_test = is_test and options.train_ratio is None and options.sequence is None
    if options.one_split:  # the published splits do not count; names are told apart by set
        parts = [part._replace(split='') for part in parts]
    elif is_test and not any(part.split for part in parts):
        parts = [part._replace(split='test') for part in parts]
        report.held_out = [part.name for part in parts]
    parts, pairs, report.without_mask, report.without_image = read_parts(parts)
    report.parts = parts
    if not (options.sequence or options.splits or options.one_split):
        pairs = with_sequences(pairs, parts, Path(folder), report)
    if not options.boxes:
        root = Path(folder).absolute()
        files = [path for part in parts for path in part.images.parent.glob(BOXES)]
        report.unused_boxes = [path.relative_to(root).as_posix() for path in sorted(set(files))]
    tests = [part for part in parts if part.split == 'test']
    if len(tests) > 1 or options.test:
        short = _short_names([part.name for part in tests])
        pairs = [
            p._replace(split=f'test_{short[p.part]}') if p.split == 'test' else p for p in pairs
        ]
    return _convert(pairs, out, options, report)


def _short_names(names: list[str]) -> dict[str, str]:
    """Return the last folder of each set's name; the whole name where that is not unique."""
    last = Counter(Path(name).name for name in names)
    return {
        name: Path(name).name if last[Path(name).name] == 1 else name.replace('/', '_')
        for name in names
    }


def _convert(
    pairs: list[Pair], out: str | Path, options: PolypOptions, report: PolypReport
) -> PolypReport:
    check_names(pairs)
    listable = [pair for pair in pairs if is_listable(pair.path)]
    report.unlistable = [printable(pair.path) for pair in pairs if not is_listable(pair.path)]
    splits = share_out(listable, options, report)
    boxes = read_boxes(options.boxes) if options.boxes else None
    with whole_folder(out, options.overwrite) as folder:
        for split, members in splits.items():
            PolypWriter(folder, split, options, boxes, report).write(members)
        if options.strict and report.left_out:
            raise ConfigError(
                f'--strict: {len(report.left_out)} files cannot be used\n{report.table()}'
            )
        for split, count in report.images.items():
            if not count:
                is_cut = not (splits[split] or options.splits or options.one_split)
                reason = (
                    'the random cut leaves no image for it; use --one-split NAME to cut nothing, '
                    'or another --train-ratio'
                    if is_cut
                    else 'no usable image with a mask'
                )
                raise ConfigError(f'split {split!r}: {reason}\n{report.table()}')
        if report.dim and not sum(report.boxes.values()):
            raise ConfigError(
                'MASKS: no mask has a value above half of its scale; expected polyps of 255 (or '
                f'of 1 in a label map of 0 and 1)\n{report.table()}'
            )
    return report
