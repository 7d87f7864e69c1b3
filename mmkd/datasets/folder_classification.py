from mmpretrain.datasets import CustomDataset

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError

from .missing import require
from .unreadable import StopAtUnreadable

HELP = (
    'Expected: one folder a class below it, or a list of `name label` lines (ann_file). Tiles of MSI and MSS: '
    '`python tools/convert_tiles.py FOLDER {root}`. configs/mmkd/msi_resnet_kdml_demo.py needs no data of yours.'
)


@DATASETS.register_module()
class FolderClassification(StopAtUnreadable, CustomDataset):
    """Images in one folder a class, or in a list; says what to do where files are missing.

    Arguments as mmpretrain's `CustomDataset`.

    Raises:
        FileNotFoundError: If the image folder or the list is missing.
        ConfigError: If the list is empty, a line of it is no `name label`, or a label is none of the classes; later, if an
            image cannot be used.
    """

    def load_data_list(self):
        """Check the files, then load them as mmpretrain does."""
        advice = HELP.format(root=self.data_root or 'data/msi')
        require(self.img_prefix, 'image folder', advice)
        if self.ann_file:
            require(self.ann_file, 'list of images', advice)
            self._check_list()
        return super().load_data_list()

    def _check_list(self):
        number = 0
        with open(self.ann_file, encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                name, _, label = line.strip().rpartition(' ')
                if not name or not label.isdigit():
                    raise ConfigError(
                        f"{self.ann_file}, line {number}: expected 'name label', got {line.strip()!r}"
                    )
                if self.CLASSES is not None and int(label) >= len(self.CLASSES):
                    raise ConfigError(
                        f'{self.ann_file}, line {number}: label {label} of {len(self.CLASSES)} classes'
                    )
        if not number:
            raise ConfigError(f'{self.ann_file} lists no image')

    @classmethod
    def plain_config(cls):
        """dict: What stands in an exported config, which runs without mmkd."""
        return dict(type='CustomDataset')
