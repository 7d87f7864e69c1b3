import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError

SPLITS = ('train', 'val', 'test')


@dataclass
class PolypOptions:
    """How polyps are converted.

    Args:
        splits: Path of a list of names by split (`train`, `val`, `test`). Default: none.
        one_split: Put all images into this split. Default: None.
        test: Sets in FOLDER that are held out, each as a split `test_<set>`. Default: none.
        train_ratio: Share of `train` in the random cut. Default: None (0.9; a published training
            set is not cut).
        seed: Of the random cut. Default: 0.
        sequence: Rule for images that must stay together in the random cut, see
            `groups.groups_of`. Default: None (what a set's `metadata.csv` lists, and the
            sequences of CVC-ClinicDB, see `sequence_tables`; else each image for itself).
        boxes: Kvasir-SEG's JSON file of boxes, taken in place of the masks' components.
            Default: None.
        min_area: Smaller components are dropped: below 1 a share of the image's area, else pixels.
            Default: None (2e-4 of the image's area, and 16 pixels at least).
        strict: Fail where a file cannot be used, instead of leaving it out. Default: False.
        overwrite: Replace the folder that is written. Default: False.

    Raises:
        ConfigError: If a value is out of range, or two options contradict each other.
    """

    splits: Mapping[str, str | Path] = field(default_factory=dict)
    one_split: str | None = None
    test: Sequence[str] = ()
    train_ratio: float | None = None
    seed: int = 0
    sequence: str | None = None
    boxes: str | Path | None = None
    min_area: float | None = None
    strict: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.train_ratio is not None and not 0 < self.train_ratio < 1:
            raise ConfigError(f'--train-ratio: expected a share in (0, 1), got {self.train_ratio}')
        if self.seed < 0:
            raise ConfigError(f'--seed: expected 0 or more, got {self.seed}')
        if self.min_area is not None and not 0 <= self.min_area < math.inf:
            raise ConfigError(
                "--min-area: expected a share of the image's area below 1, or pixels, "
                f'got {self.min_area}'
            )
        if self.one_split is not None:
            choose(self.one_split, SPLITS, '--one-split')
        given = {
            '--split': bool(self.splits),
            '--one-split': self.one_split is not None,
            '--sequence': self.sequence is not None,
        }
        chosen = [name for name, is_given in given.items() if is_given]
        if len(chosen) > 1:
            raise ConfigError(f'{chosen[0]} and {chosen[1]} cannot be given together')
