import io
from pathlib import Path

from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError

from .missing import require
from .unreadable import StopAtUnreadable, read_whole

HELP = (
    'Prepare it: `python tools/convert_polyp.py IMAGES MASKS {root}` for a folder of images and one of masks, '
    'or `python tools/make_synthetic.py --out {root}`. '
    'configs/mmkd/polyp_unet_mixed_demo.py needs no data of yours.'
)


@DATASETS.register_module()
class PolypSegmentation(StopAtUnreadable, BaseSegDataset):
    """Label maps of background (0) and polyp (1), 255 ignored; says what to do where files are missing.

    Arguments as mmseg's `BaseSegDataset`.

    Raises:
        FileNotFoundError: If a folder is missing, holds no image of `img_suffix`, or images have no label map.
        ConfigError: Later, if an image or label map cannot be used, the two differ in size, or a label is none of the classes.
    """

    METAINFO = dict(classes=('background', 'polyp'), palette=[[0, 0, 0], [220, 20, 60]])

    def load_data_list(self):
        """Check the folders, then list them as mmseg does."""
        folders = dict((kind, self.data_prefix.get(kind)) for kind in ('img_path', 'seg_map_path'))
        for kind, folder in folders.items():
            require(
                folder,
                f'folder of {"images" if kind == "img_path" else "label maps"} (data_prefix.{kind})',
                HELP.format(root=self.data_root or 'data/kvasir'),
                self.backend_args,
            )
        data_list = super().load_data_list()
        if not data_list:
            raise FileNotFoundError(
                f'no image that ends in {self.img_suffix!r} in {Path(folders["img_path"]).absolute()} '
                '(img_suffix)'
            )
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
            raise FileNotFoundError(
                f'{len(missing)} of {len(data_list)} images have no label map in '
                f'{Path(folders["seg_map_path"]).absolute()}: {[Path(m).name for m in missing[:5]]}'
            )
        return data_list

    def prepare_data(self, idx):
        """Load an item as mmseg does; label maps that do not fit their image or the classes are named."""
        info = self.get_data_info(idx)
        image, labels = (
            _size(read_whole(info[key], self.backend_args)) for key in ('img_path', 'seg_map_path')
        )
        if image != labels and None not in (image, labels):
            raise ConfigError(
                f'{info["seg_map_path"]}: the label map has {labels[0]} x {labels[1]} pixels, its image '
                f'{image[0]} x {image[1]}'
            )
        item = super().prepare_data(idx)
        truth = (
            item['data_samples'].get('gt_sem_seg')
            if isinstance(item, dict) and 'data_samples' in item
            else None
        )
        if truth is not None and not self.reduce_zero_label:
            wrong = truth.data[
                (truth.data != self.ignore_index) & (truth.data >= len(self.metainfo['classes']))
            ]
            if len(wrong):
                raise ConfigError(
                    f'{info["seg_map_path"]}: label {int(wrong[0])} of {len(self.metainfo["classes"])} classes '
                    f'{self.metainfo["classes"]}; {self.ignore_index} is ignored'
                )
        return item

    @classmethod
    def plain_config(cls):
        """dict: What stands in an exported config, which runs without mmkd."""
        return dict(type='BaseSegDataset', metainfo=dict(cls.METAINFO))


def _size(data):
    """Width and height of an image, as OpenCV turns it; None if Pillow does not know the format."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return image.size[::-1] if turned else image.size
    except (OSError, SyntaxError, ValueError):
        return None
