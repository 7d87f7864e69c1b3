from mmpretrain.datasets import CustomDataset

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError

from .checked_data import CheckedData
from .require import listing, require

HELP = (
    'Expected: one folder a class below it, or a list of `name label` lines (ann_file). Tiles of '
    'MSI and MSS: `python tools/convert_tiles.py FOLDER {root}`. '
    'configs/mmkd/msi_resnet_kdml_demo.py needs no data of yours.'
)


@DATASETS.register_module()
class FolderClassification(CheckedData, CustomDataset):
    """Images in one folder a class, or in a list; says what to do where files are missing.

    Args:
        *args: As mmpretrain's `CustomDataset`.
        cache_prefix: Number of leading steps of the pipeline whose result is kept in memory, see
            `CheckedData`. Default: 0.
        **kwargs: As mmpretrain's `CustomDataset`, and `cache_folder`, likewise.

    Raises:
        MissingData: If the image folder or the list is missing.
        ConfigError: If the list is no text, is empty, has a line that is no `name label`, or a
            label out of range; if the folders hold no images, or are not one per class. Later, if
            an image cannot be used.
    """

    loads_annotations = False

    def load_data_list(self) -> list[dict]:
        """Check the files, then load them as mmpretrain does."""
        advice = HELP.format(root=self.data_root or 'data/msi')
        require(self.img_prefix, 'image folder', advice)
        if self.ann_file:
            require(self.ann_file, 'list of images', advice)
            self._check_list()
        try:
            with listing(self.img_prefix):
                return super().load_data_list()
        except (AssertionError, RuntimeError) as error:  # no images; another number of folders
            raise ConfigError(f'{self.img_prefix}: {error}') from error

    def _check_list(self) -> None:
        try:
            with open(self.ann_file, encoding='utf-8') as file:
                lines = list(file)  # as the toolbox splits it, and not at every kind of line end
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f'{self.ann_file}: cannot read this list: {error}') from error
        if not lines:
            raise ConfigError(f'{self.ann_file} lists no image')
        if not self.with_label:
            return
        for number, line in enumerate(lines, 1):
            name, _, label = line.strip().rpartition(' ')
            if not name or not (label.isascii() and label.isdigit()):
                raise ConfigError(
                    f"{self.ann_file}, line {number}: expected 'name label', got {line.strip()!r}"
                )
            if self.CLASSES is not None and int(label) >= len(self.CLASSES):
                raise ConfigError(
                    f'{self.ann_file}, line {number}: label {label} of {len(self.CLASSES)} classes'
                )

    @classmethod
    def plain_config(cls) -> dict:
        """Return what stands in an exported config, which runs without mmkd."""
        return dict(type='CustomDataset')
