import json
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine import fileio
from mmengine.logging import print_log

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import printable

from .checked_data import CheckedData
from .coco_file import check_coco
from .require import absolute, require

HELP = (
    'Prepare it: `python tools/convert_polyp.py IMAGES MASKS {root}` for a folder of images and '
    'one of masks, or `python tools/make_synthetic.py --out {root}`. '
    'configs/mmkd/polyp_yolox_kdml_demo.py needs no data of yours.'
)


@DATASETS.register_module()
class PolypDetection(CheckedData, CocoDataset):
    """COCO boxes of one class, polyp; says what to do where its files are missing.

    Boxes and images that the toolbox would leave out without a word are named in the log.

    Args:
        *args: As mmdet's `CocoDataset`.
        cache_prefix: Number of leading steps of the pipeline whose result is kept in memory, see
            `CheckedData`. Default: 0.
        **kwargs: As mmdet's `CocoDataset`, and `cache_folder`, likewise.

    Raises:
        MissingData: If the annotation file or the image folder is missing (with
            `lazy_init=True`, not before the data are read).
        ConfigError: If the annotation file is no COCO file, has no images, no category of one of
            the classes, ids that occur twice, or boxes that name unknown images or categories, are
            no four numbers, or cannot be used at all; if a training pipeline does not load the
            boxes. Later, if an image cannot be used or has another size than the file says.
    """

    METAINFO = dict(classes=('polyp',), palette=[(220, 20, 60)])

    def load_data_list(self) -> list[dict]:
        """Check the files, then load the annotations as mmdet does."""
        folder = self.data_prefix.get('img')
        if not folder:
            raise ConfigError(
                "data_prefix: expected dict(img='images/train/') or the like, "
                f'got {self.data_prefix}'
            )
        for what, path in (('annotation file', self.ann_file), ('image folder', folder)):
            require(
                path, what, HELP.format(root=self.data_root or 'data/kvasir'), self.backend_args
            )
        path = absolute(self.ann_file)
        try:
            content = json.loads(fileio.get(self.ann_file, backend_args=self.backend_args))
        except (ValueError, RecursionError) as error:  # damaged JSON, or no text at all
            raise ConfigError(f'{path} is no COCO annotation file: {error}') from error
        except OSError as error:
            raise ConfigError(f'{path}: cannot read it: {error.strerror or error}') from error
        for warning in check_coco(content, path, self.metainfo['classes']):
            print_log(warning, logger='current', level=30)
        return super().load_data_list()

    def check_step(self, results: dict, new: set[str]) -> None:
        """Compare an image that was just loaded with the size in the annotation file."""
        if 'img' not in new or 'ori_shape' not in results:
            return
        size, listed = tuple(results['ori_shape'][:2]), (results['height'], results['width'])
        if size != listed:
            turned = size == listed[::-1] and size[0] != size[1]
            raise ConfigError(
                f'{printable(str(results["img_path"]))}: the image has {size[1]} x {size[0]} '
                f'pixels, {absolute(self.ann_file)} says {listed[1]} x {listed[0]}'
                + ('; is it turned by its EXIF orientation?' if turned else '')
            )

    @classmethod
    def plain_config(cls) -> dict[str, Any]:
        """Return what stands in an exported config, which runs without mmkd."""
        return dict(type='CocoDataset', metainfo=dict(cls.METAINFO))
