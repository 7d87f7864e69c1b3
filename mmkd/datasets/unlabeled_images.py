from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from mmengine import fileio
from mmengine.dataset import BaseDataset

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import IMAGE_SUFFIXES

from .checked_data import CheckedData
from .errors import MissingData
from .require import absolute, listing, require

# What folders of labels are called, and what ends the names of label maps beside their images.
# In lower case, without `_` and a plural's `s`. MMSegmentation's layouts have some of them.
LABEL_FOLDERS = {
    *('anndir', 'annotation', 'groundtruth', 'gt', 'gtcoarse', 'gtfine', 'label', 'labelmap'),
    *('mask', 'seg', 'segmentation', 'segmentationclass', 'segmentationobject'),
}
LABEL_ENDINGS = ('_gt', '_label', '_labels', '_mask', '_masks', '_seg', '_segmentation')


@DATASETS.register_module()
class UnlabeledImages(CheckedData, BaseDataset):
    """The images of a folder and the folders below it, for an `unlabeled_dataloader` of any task.

    Args:
        *args: As mmengine's `BaseDataset`.
        **kwargs: As mmengine's `BaseDataset`; `data_root` is the folder. The pipeline loads an
            image and packs it for the task, and has no step that loads annotations.

    Raises:
        MissingData: If the folder is missing, or has no image.
        ConfigError: If label maps are among the images, which would be taken for images. Later, if
            an image cannot be used, or a step of the pipeline looks for labels.

    Examples:
        >>> pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
        >>> cfg = dict(type='mmkd.UnlabeledImages', data_root='frames/', pipeline=pipeline)
    """

    loads_annotations = False

    def prepare_data(self, idx: int) -> Any:
        """Load an item."""
        try:
            return super().prepare_data(idx)
        except KeyError as error:
            names = [type(step).__name__ for step in self._steps]
            loading = next((name for name in names if 'Annotations' in name), None)
            if loading is None:
                raise
            raise ConfigError(
                f'unlabeled_dataloader.dataset.pipeline: drop {loading}: these images have no '
                f'labels (there is no {error})'
            ) from error

    def load_data_list(self) -> list[dict]:
        """List the images."""
        root = self.data_root
        require(root, 'folder of unlabeled images (data_root)', 'Name one that holds images.', None)
        with listing(root):
            files = sorted(fileio.list_dir_or_file(root, list_dir=False, recursive=True))
        images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
        if not images:
            raise MissingData(
                f'no image in {absolute(root)} (data_root of the unlabeled images); expected files '
                f'that end in {", ".join(IMAGE_SUFFIXES)}'
            )
        own = PurePosixPath(root).name
        holds_labels = _holds_labels(own) and not own.lower().startswith('seg')  # as of a task
        labels = images if holds_labels else _label_maps(images)
        if labels:
            raise ConfigError(
                f'{absolute(root)} (data_root of the unlabeled images): {len(labels)} of '
                f'{len(images)} images look like label maps ({", ".join(labels[:3])}); name the '
                'folder that holds the images alone'
            )
        return [
            dict(img_path=fileio.join_path(root, name), img_id=index, seg_fields=[])
            for index, name in enumerate(images)
        ]


def _holds_labels(folder: str) -> bool:
    name = folder.lower().replace('_', '')
    return name in LABEL_FOLDERS or name.removesuffix('s') in LABEL_FOLDERS


def _label_maps(images: Sequence[str]) -> list[str]:
    """Return the files that are labels by their folder's name, or by an image of their name."""
    paths = [PurePosixPath(name) for name in images]
    beside: dict[PurePosixPath, set[str]] = defaultdict(set)
    for path in paths:
        beside[path.parent / path.stem.lower()].add(path.suffix.lower())
    found = []
    for path in paths:
        stem = path.stem.lower()
        image = next((stem[: -len(e)] for e in LABEL_ENDINGS if stem.endswith(e)), None)
        twin = len(beside[path.parent / stem]) > 1 and path.suffix.lower() == '.png'
        if (
            any(map(_holds_labels, path.parent.parts))
            or twin
            or (image and path.parent / image in beside)
        ):
            found.append(str(path))
    return found
