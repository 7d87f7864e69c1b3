import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from mmkd.datasets.converters.synthetic import write_synthetic_polyps

BASE = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'datasets'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'set'
    write_synthetic_polyps(root, train=20, val=6, size=48)
    return root


def build(root, **kwargs):
    cfg = dict(
        type='mmkd.PolypDetection',
        data_root=str(root),
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/train/'),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=[],
    )
    return DATASETS.build(dict(cfg, **kwargs))


@pytest.mark.parametrize('name, size', [('kvasir_detection', 416), ('synthetic_detection', 128)])
def test_base_configs_make_batches(root, name, size):
    cfg = Config.fromfile(BASE / f'{name}.py')
    init_default_scope('mmdet')
    for kind, count in (('train', 20), ('val', 6)):
        loader = cfg[f'{kind}_dataloader']
        assert (
            loader.batch_size == (8 if name.startswith('kvasir') else 16)
            and loader.persistent_workers
        )
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
        loader.dataset.data_root = str(root)
        loader = Runner.build_dataloader(loader, seed=0)
        assert len(loader.dataset) == count  # frames without polyp stay in
        assert loader.dataset.metainfo['classes'] == ('polyp',)
        batch = next(iter(loader))
        assert all(
            image.shape == (3, size, size) and image.dtype == torch.uint8
            for image in batch['inputs']
        )
        assert all(hasattr(sample, 'scale_factor') for sample in batch['data_samples'])
        boxes = torch.cat([sample.gt_instances.bboxes.tensor for sample in batch['data_samples']])
        assert (
            len(boxes)
            and (boxes[:, 2:] > boxes[:, :2]).all()
            and boxes.min() >= 0
            and boxes.max() <= size
        )
    assert cfg.val_evaluator.ann_file == cfg.data_root + 'annotations/val.json'
    assert cfg.test_evaluator == cfg.val_evaluator


def test_missing_data_say_what_to_do(root, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        build(tmp_path)
    for part in (
        str(tmp_path / 'annotations' / 'train.json'),
        'tools/convert_polyp.py IMAGES MASKS',
        'tools/make_synthetic.py',
        'configs/mmkd/polyp_yolox_kdml_demo.py',
    ):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match='no image folder .*images/nowhere'):
        build(root, data_prefix=dict(img='images/nowhere'))
    with pytest.raises(ValueError, match='data_prefix: expected'):
        build(root, data_prefix=dict(img_path=''))


def test_lazy_init_tells_the_classes_without_data(tmp_path):
    dataset = build(tmp_path, lazy_init=True)
    assert dataset.metainfo['classes'] == ('polyp',)
    with pytest.raises(FileNotFoundError, match='no annotation file'):
        dataset.full_init()


@pytest.mark.parametrize(
    'content, message',
    [
        ('{"images": [', 'is no COCO annotation file: .*line 1'),
        ('[]', "expected a dict with a list 'images'"),
        ('{"images": [], "annotations": {}}', "expected a dict with a list 'annotations'"),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}',
            r"images\[0\] has no 'height'",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}',
            r"no category 'polyp' \(it has \['cat'\]\)",
        ),
        (b'\x89PNG\xff', 'is no COCO annotation file'),
    ],
)
def test_damaged_annotations_are_named(root, tmp_path, content, message):
    path = tmp_path / 'damaged.json'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f'damaged.json.*{message}'):
        build(root, ann_file=str(path))


def test_plain_config_loads_the_same(root):
    ours = build(root)
    plain = build(root, **type(ours).plain_config())
    assert type(plain).__name__ == 'CocoDataset' and plain.metainfo['classes'] == ('polyp',)
    assert [ours.get_data_info(i) for i in range(20)] == [plain.get_data_info(i) for i in range(20)]
    boxes = len(json.loads((root / 'annotations' / 'train.json').read_text())['annotations'])
    assert sum(len(ours.get_data_info(i)['instances']) for i in range(20)) == boxes
