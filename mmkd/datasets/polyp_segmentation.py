from pathlib import Path
from typing import Any

import numpy as np
from mmengine import fileio
from mmseg.datasets import BaseSegDataset

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import printable

from .checked_data import CheckedData
from .errors import MissingData
from .require import listing, require

HELP = (
    'Prepare it: `python tools/convert_polyp.py IMAGES MASKS {root}` for a folder of images and '
    'one of masks, or `python tools/make_synthetic.py --out {root}`. '
    'configs/mmkd/polyp_unet_mixed_demo.py needs no data of yours.'
)
FOLDERS = dict(img_path='images', seg_map_path='label maps')
# So many label maps in a row with ignored pixels but without a polyp are masks of 0 and 255.
SUSPICIOUS = 8


@DATASETS.register_module()
class PolypSegmentation(CheckedData, BaseSegDataset):
    """Label maps of background (0) and polyp (1), 255 ignored; says what to do where files are
    missing.

    Args:
        *args: As mmseg's `BaseSegDataset`.
        **kwargs: As mmseg's `BaseSegDataset`, and `cache_prefix`: the number of leading steps of
            the pipeline whose result is kept in memory, and `cache_folder`, see `CheckedData`.

    Raises:
        MissingData: If a folder is missing, holds no image of `img_suffix`, or images have no
            label map.
        ConfigError: If a folder cannot be listed, or a training pipeline does not load the label
            maps. Later, if an image or label map cannot be used, the two differ in size, a label
            map has several channels, or a label is out of range.
    """

    METAINFO = dict(classes=('background', 'polyp'), palette=[[0, 0, 0], [220, 20, 60]])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._suspicious: int | None = 0  # None: a label map with a polyp was seen
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Check the folders, then list them as mmseg does."""
        folders = {kind: self.data_prefix.get(kind) for kind in ('img_path', 'seg_map_path')}
        for kind, folder in folders.items():
            require(
                folder,
                f'folder of {FOLDERS[kind]} (data_prefix.{kind})',
                HELP.format(root=self.data_root or 'data/kvasir'),
                self.backend_args,
            )
        with listing(folders['img_path']):
            data_list = super().load_data_list()
        if not data_list:
            raise MissingData(
                f'no image that ends in {self.img_suffix!r} in '
                f'{Path(folders["img_path"]).absolute()} (img_suffix)'
            )
        with listing(folders['seg_map_path']):
            maps = set(
                fileio.list_dir_or_file(
                    folders['seg_map_path'],
                    list_dir=False,
                    recursive=True,
                    backend_args=self.backend_args,
                )
            )
        missing = [
            item['img_path']
            for item in data_list
            if str(Path(item['seg_map_path']).relative_to(folders['seg_map_path'])) not in maps
        ]
        if missing:
            names = ', '.join(printable(Path(path).name) for path in missing[:5])
            raise MissingData(
                f'{len(missing)} of {len(data_list)} images have no label map in '
                f'{Path(folders["seg_map_path"]).absolute()}: {names}'
            )
        return data_list

    def check_step(self, results: dict, new: set[str]) -> None:
        """Compare a label map that was just loaded with its image and with the classes."""
        if 'gt_seg_map' not in new:
            return
        path, labels = printable(str(results['seg_map_path'])), results['gt_seg_map']
        if labels.ndim != 2:
            raise ConfigError(
                f'{path}: expected one label per pixel, got {labels.shape[-1]} channels; '
                'tools/convert_polyp.py makes label maps of colored masks'
            )
        size = results.get('ori_shape')
        if size is not None and labels.shape != tuple(size[:2]):
            raise ConfigError(
                f'{path}: the label map has {labels.shape[1]} x {labels.shape[0]} pixels, its '
                f'image {size[1]} x {size[0]}'
            )
        if not self.reduce_zero_label:
            self._check_labels(path, labels)

    def _check_labels(self, path: str, labels: np.ndarray) -> None:
        classes, valid = self.metainfo['classes'], labels != self.ignore_index
        top = labels.max(initial=0, where=valid)
        if top >= len(classes):
            raise ConfigError(
                f'{path}: label {top} of {len(classes)} classes {classes}; '
                f'{self.ignore_index} is ignored'
            )
        if self._suspicious is None or top:
            self._suspicious = None
        elif not valid.all():
            self._suspicious += 1
            if self._suspicious == min(SUSPICIOUS, len(self)):
                raise ConfigError(
                    f'{path}: {self._suspicious} label maps in a row have pixels of '
                    f'{self.ignore_index}, which is ignored, and none of {", ".join(classes[1:])}: '
                    'masks of 0 and 255 are no label maps; tools/convert_polyp.py converts them'
                )

    @classmethod
    def plain_config(cls) -> dict:
        """Return what stands in an exported config, which runs without mmkd."""
        return dict(type='BaseSegDataset', metainfo=dict(cls.METAINFO))
