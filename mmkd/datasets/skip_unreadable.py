import copy
from typing import Any

import numpy as np
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError

from .errors import UnreadableImage
from .unreadable import check_files, load_whole

# How many replacements are tried for one item; where all fail, it is the data set and not a file.
TRIES = 50
# In the meta information of an item that stands in for others: why those could not be used.
KEY = 'unreadable'


@DATASETS.register_module()
class SkipUnreadable:
    """A training set that puts another image in place of one that cannot be used, and goes on.

    Wrap the data set itself, inside `RepeatDataset` and the like:
    `dataset=dict(type='mmkd.SkipUnreadable', dataset=dict(...))`. Without the wrapper mmkd's own
    data sets stop with one message that names the file. Unusable is a file (image or label map)
    that is missing, empty, cut off or no image; other faults of an item stop the training as
    before.

    The replacement depends on the item's index alone and draws from no random stream: runs with the
    same seed see the same images, with any number of workers and after a resume.
    `mmkd.UnreadableHook` names each file in the log once and counts.

    Args:
        dataset: Any data set of OpenMMLab that is for training, or its config.

    Raises:
        ConfigError: If the data set is one for evaluation (`test_mode`), which must measure every
            image.
        UnreadableImage: If an item cannot be used, nor any of its 50 replacements.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = MMENGINE_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if getattr(self.dataset, 'test_mode', False):
            raise ConfigError(
                'mmkd.SkipUnreadable: the data set has test_mode=True; an evaluation must not '
                'leave out images'
            )
        check_files(self.dataset)

    @property
    def metainfo(self) -> dict:
        """The data set's meta information."""
        return copy.deepcopy(self.dataset.metainfo)

    def full_init(self) -> None:
        """Load the data set's annotations."""
        self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of an item (not of what may stand in for it)."""
        return self.dataset.get_data_info(idx)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> Any:
        """Load an item, or the first usable one of a deterministic list of replacements."""
        others = np.random.default_rng(idx).integers(len(self), size=TRIES)
        faults = []
        for place in (idx, *others.tolist()):
            try:
                item = load_whole(self.dataset, place, self.dataset.__getitem__)
            except UnreadableImage as fault:
                faults.append(str(fault))
                continue
            if faults:
                item['data_samples'].set_metainfo({KEY: faults})
            return item
        raise UnreadableImage(
            f'{faults[0]}, nor can {TRIES} others be used that were to stand in for it'
        )
