import math
import os

from mmdet.datasets import CocoDataset
from mmengine import fileio
from mmengine.logging import print_log

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError

from .missing import require
from .unreadable import StopAtUnreadable

HELP = (
    'Prepare it: `python tools/convert_polyp.py IMAGES MASKS {root}` for a folder of images and one of masks, '
    'or `python tools/make_synthetic.py --out {root}`. '
    'configs/mmkd/polyp_yolox_kdml_demo.py needs no data of yours.'
)
# What mmdet reads of each entry; without a check it fails with a bare KeyError.
ENTRIES = dict(
    images=('id', 'file_name', 'height', 'width'),
    annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
    categories=('id', 'name'),
)


@DATASETS.register_module()
class PolypDetection(StopAtUnreadable, CocoDataset):
    """COCO boxes of one class, polyp; says what to do where its files are missing. Arguments as mmdet's `CocoDataset`.

    Raises:
        FileNotFoundError: If the annotation file or the image folder is missing (with `lazy_init=True`, which is there
            to tell the classes alone, not before the data are read).
        ConfigError: If the annotation file is no COCO file, has no images, no category of one of the classes, or boxes that name
            unknown images or categories, are no four numbers, or lie all outside their images; later, if an image cannot be
            used.
    """

    METAINFO = dict(classes=('polyp',), palette=[(220, 20, 60)])

    def load_data_list(self):
        """Check the files, then load the annotations as mmdet does."""
        folder = self.data_prefix.get('img')
        if not folder:
            raise ConfigError(
                f"data_prefix: expected dict(img='images/train/') or the like, got {self.data_prefix}"
            )
        for what, path in (('annotation file', self.ann_file), ('image folder', folder)):
            require(
                path, what, HELP.format(root=self.data_root or 'data/kvasir'), self.backend_args
            )
        self._check_annotations()
        return super().load_data_list()

    def _check_annotations(self):
        wrong = f'{_absolute(self.ann_file)} is no COCO annotation file: '
        try:
            content = fileio.load(self.ann_file, file_format='json', backend_args=self.backend_args)
        except ValueError as error:  # damaged JSON, or no text at all
            raise ConfigError(f'{wrong}{error}') from error
        for name, keys in ENTRIES.items():
            entries = content.get(name) if isinstance(content, dict) else None
            if not isinstance(entries, list):
                raise ConfigError(f'{wrong}expected a dict with a list {name!r}')
            for i, entry in enumerate(entries):
                missing = (
                    [key for key in keys if key not in entry]
                    if isinstance(entry, dict)
                    else list(keys)
                )
                if missing:
                    raise ConfigError(f'{wrong}{name}[{i}] has no {missing[0]!r}')
        # pycocotools drops what it does not know: a file of another class would be one without any box.
        known = [category['name'] for category in content['categories']]
        unknown = [name for name in self.metainfo['classes'] if name not in known]
        if unknown:
            raise ConfigError(
                f'{_absolute(self.ann_file)}: no category {unknown[0]!r} (it has {known}); '
                'set metainfo=dict(classes=...) to the names in the file'
            )

        if not content['images']:
            raise ConfigError(f'{_absolute(self.ann_file)} lists no images')
        self._check_boxes(content)

    def _check_boxes(self, content):
        path = _absolute(self.ann_file)
        sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
        categories = {category['id'] for category in content['categories']}
        unusable = []
        for i, entry in enumerate(content['annotations']):
            for key, known in (('image_id', sizes), ('category_id', categories)):
                if entry[key] not in known:
                    raise ConfigError(
                        f'{path}: annotations[{i}] has {key} {entry[key]}, which no entry of '
                        f'{"images" if key == "image_id" else "categories"} has'
                    )
            box = entry['bbox']
            if (
                not isinstance(box, list)
                or len(box) != 4
                or not all(
                    isinstance(value, (int, float)) and math.isfinite(value) for value in box
                )
            ):
                raise ConfigError(
                    f'{path}: annotations[{i}] has bbox {box}, expected [x, y, width, height] in pixels'
                )
            (x, y, w, h), (width, height) = box, sizes[entry['image_id']]
            if w < 1 or h < 1 or min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
                unusable.append(f'annotations[{i}]: bbox {box} in an image of {width} x {height}')
        if unusable:
            text = f'{path}: {len(unusable)} of {len(content["annotations"])} boxes are below one pixel or outside their image, '
            if len(unusable) == len(content['annotations']):
                raise ConfigError(f'{text}none is left: {unusable[0]}')
            print_log(
                f'{text}they are left out: {", ".join(unusable[:5])}{", ..." if len(unusable) > 5 else ""}',
                logger='current',
                level=30,
            )

    @classmethod
    def plain_config(cls):
        """dict: What stands in an exported config, which runs without mmkd."""
        return dict(type='CocoDataset', metainfo=dict(cls.METAINFO))


def _absolute(path):
    return path if '://' in str(path) else os.path.abspath(path)
