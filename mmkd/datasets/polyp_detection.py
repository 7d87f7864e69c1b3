import json
from pathlib import Path

from mmdet.datasets import CocoDataset

from mmkd.registry import DATASETS

HELP = ("Prepare it: `python tools/convert_polyp.py IMAGES MASKS {root}` for a folder of images and one of masks, or `python "
        "tools/make_synthetic.py --out {root}`. configs/mmkd/polyp_yolox_kdml_demo.py needs no data of yours.")


@DATASETS.register_module()
class PolypDetection(CocoDataset):
    """COCO boxes of one class, polyp; says what to do where its files are missing. Arguments as mmdet's `CocoDataset`."""

    METAINFO = dict(classes=('polyp', ), palette=[(220, 20, 60)])

    def _join_prefix(self):
        super()._join_prefix()
        root = self.data_root or 'data/kvasir'
        for kind, path in (('annotation file', self.ann_file), ('image folder', self.data_prefix.get('img'))):
            if path and '://' not in str(path) and not Path(path).exists():
                raise FileNotFoundError(f'no {kind} {Path(path).absolute()}. {HELP.format(root=root)}')

    def load_data_list(self):
        """Load the annotation file; a damaged one is named."""
        try:
            return super().load_data_list()
        except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f'{self.ann_file} is no COCO annotation file: {type(error).__name__}: {error}') from error

    @classmethod
    def plain_config(cls):
        """dict: What stands in an exported config, which runs without mmkd."""
        return dict(type='CocoDataset', metainfo=dict(cls.METAINFO))
