"""Tables that list the sequences of a published set: beside its folders, or CVC-ClinicDB's own."""

import csv
from bisect import bisect_left
from os.path import relpath
from pathlib import Path

from PIL import Image

from mmkd.utils.errors import ConfigError

from .groups import groups_of
from .layouts import FORMATS, Pair, Part
from .polyp_report import PolypReport

TABLE, COLUMN = 'metadata.csv', 'sequence_id'
# The last frame of each of CVC-ClinicDB's 29 sequences, as its publishers number them from 1
# (polyp.grand-challenge.org/CVCClinicDB).
CLINICDB = (
    *(25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383, 408),
    *(428, 447, 466, 478, 503, 528, 546, 571, 591, 612),
)
FEWEST = 500  # of the 612 numbers; PraNet's TrainDataset has 550
SIZE = 384, 288  # of its frames


def with_sequences(
    pairs: list[Pair], parts: list[Part], folder: Path, report: PolypReport
) -> list[Pair]:
    """Name the sequence of each pair whose set has a table `metadata.csv`, or is CVC-ClinicDB.

    CVC-ClinicDB has one as published on Kaggle (balraj98/cvcclinicdb). Its columns are `frame_id`,
    `sequence_id`, `png_image_path`, `png_mask_path`, ..., as public programs that read it have
    them; the file itself was not at hand. `sequence_id` is the sequence; whichever other column
    names the set's images by their stems tells the rows. A table without `sequence_id` is none of
    sequences, and a set is left as it is, with a warning, where its table does not give exactly one
    sequence for each image.

    Without such a table 500 images or more of one folder, named by numbers from 1 to 612 and of
    384 x 288 pixels, are taken for CVC-ClinicDB's frames.

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
        members = [pair for pair in pairs if pair.part == part.name]
        if not _has_sequences(table):
            found = _of_clinicdb(members)
            if found:
                report.sequence_tables.append(
                    f"CVC-ClinicDB's list of frames ({len(found)} numbers"
                    f'{f" in {part.name}" if part.name else ""})'
                )
            sequences |= {image: f'{part.name}: {number}' for image, number in found.items()}
            continue
        name = Path(relpath(table, folder)).as_posix()  # FOLDER may be `PNG`
        try:
            groups = groups_of([pair.path for pair in members], f'{table}:{COLUMN}', 'FOLDER')
        except ConfigError as error:
            report.warnings.append(f'{name} is not used for the cut: {error}')
            continue
        report.sequence_tables.append(name)
        sequences |= {pair.image: f'{part.name}: {group}' for pair, group in zip(members, groups)}
    return [pair._replace(sequence=sequences.get(pair.image, '')) for pair in pairs]


def _of_clinicdb(pairs: list[Pair]) -> dict[Path, int]:
    """Return the sequence (from 1) of each image that a number names; none of another set."""
    frames = [pair.image for pair in pairs if pair.image.stem.isdecimal()]
    numbers = {int(image.stem): image for image in frames}
    if len({image.parent for image in frames}) != 1 or len(numbers) != len(frames):
        return {}  # several folders, or a number twice: other videos
    if len(numbers) < FEWEST or min(numbers) < 1 or max(numbers) > CLINICDB[-1]:
        return {}
    # Sizes of some: a damaged file, or one of another size, is no frame of it as published.
    if any(_size(numbers[n]) != SIZE for n in (min(numbers), max(numbers))):
        return {}
    return {image: bisect_left(CLINICDB, n) + 1 for n, image in numbers.items()}


def _size(image: Path) -> tuple[int, int] | None:
    try:
        with Image.open(image) as opened:
            return opened.size
    except OSError:
        return None


def _has_sequences(table: Path) -> bool:
    if not table.is_file():
        return False
    try:
        with open(table, newline='', encoding='utf-8-sig') as file:
            return COLUMN in next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False  # not asked for, so nobody's mistake
