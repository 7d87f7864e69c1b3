"""Tables that list the sequences of a published set, found beside its folders."""

import csv
from os.path import relpath
from pathlib import Path

from mmkd.utils.errors import ConfigError

from .groups import groups_of
from .layouts import FORMATS, Pair, Part
from .polyp_report import PolypReport

TABLE, COLUMN = 'metadata.csv', 'sequence_id'


def with_sequences(
    pairs: list[Pair], parts: list[Part], folder: Path, report: PolypReport
) -> list[Pair]:
    """Name the sequence of each pair whose set has a table `metadata.csv` beside its folders.

    CVC-ClinicDB has one as published on Kaggle (balraj98/cvcclinicdb). Its columns are `frame_id`,
    `sequence_id`, `png_image_path`, `png_mask_path`, ..., as public programs that read it have
    them; the file itself was not at hand. `sequence_id` is the sequence; whichever other column
    names the set's images by their stems tells the rows. A table without `sequence_id` is none of
    sequences, and a set is left as it is, with a warning, where its table does not give exactly one
    sequence for each image.

    Args:
        pairs: Of all sets.
        parts: The sets.
        folder: The folder that was given, for shorter names in the report.
        report: Gets the tables that are used, and the warnings.
    """
    sequences: dict[Path, str] = {}
    for part in parts:
        place = part.images.parent
        place = place.parent if place.name.lower() in FORMATS else place
        table = place / TABLE
        if not _has_sequences(table):
            continue
        members = [pair for pair in pairs if pair.part == part.name]
        name = Path(relpath(table, folder)).as_posix()  # FOLDER may be `PNG`
        try:
            groups = groups_of([pair.path for pair in members], f'{table}:{COLUMN}', 'FOLDER')
        except ConfigError as error:
            report.warnings.append(f'{name} is not used for the cut: {error}')
            continue
        report.sequence_tables.append(name)
        sequences |= {pair.image: f'{part.name}: {group}' for pair, group in zip(members, groups)}
    return [pair._replace(sequence=sequences.get(pair.image, '')) for pair in pairs]


def _has_sequences(table: Path) -> bool:
    if not table.is_file():
        return False
    try:
        with open(table, newline='', encoding='utf-8-sig') as file:
            return COLUMN in next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False  # not asked for, so nobody's mistake
