import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS

FOLDER = Path(__file__).resolve().parents[1] / 'configs' / 'mmkd'
FILES = sorted(FOLDER.glob('*.py'))
NAMES = [path.stem for path in FILES]
KDML = [name for name in NAMES if '_kdml' in name]
CONTROLS = [name for name in NAMES if name not in KDML]
# Links from the teacher to students, and between students.
LINKS = dict(kdml=(2, 2), kd=(2, 0), ml=(0, 2), individual=(0, 0))


def load(name):
    return Config.fromfile(FOLDER / f'{name}.py')


def header(name):
    """The comment that a config starts with."""
    lines = (FOLDER / f'{name}.py').read_text().splitlines()
    return ' '.join(line.lstrip('# ') for line in lines[:next(i for i, line in enumerate(lines) if not line.startswith('#'))])


def method(name):
    return name.split('_')[2]


def base_of(name):
    """The config of the method that a control is compared with."""
    return name.replace(f'_{method(name)}', '_kdml')


def flatten(value, prefix=''):
    """Dotted keys and values of a config."""
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in flatten(item, f'{prefix}.{key}' if prefix else key).items()}
    return {prefix: value}


def pipelines(cfg):
    """The three loaders' pipelines, inside of a repeated data set too."""
    found = {}
    for kind in ('train', 'val', 'test'):
        dataset = cfg[f'{kind}_dataloader'].dataset
        found[kind] = dataset.get('dataset', dataset).pipeline
    return found


def test_each_method_has_its_controls():
    assert {'kdml', 'kd', 'ml', 'individual'} == {method(name) for name in NAMES}
    for name in CONTROLS:
        assert base_of(name) in KDML and 'control' in header(name).lower()


@pytest.mark.parametrize('name', NAMES)
def test_the_model_builds_with_the_links_of_its_name(name):
    cfg = load(name)
    model = MODELS.build(cfg.model)
    students = [member for member in model.plans if member != 'teacher']
    assert students == ['student1', 'student2'] and ('teacher' in model.plans) == (method(name) != 'ml')
    sources = [link.source for link, _ in model.links]
    assert (sources.count('teacher'), sum(source in students for source in sources)) == LINKS[method(name)]
    assert all(link.target in students for link, _ in model.links)
    for member in model.plans:
        assert model.network(member).bbox_head.num_classes == 1
    sizes = {member: sum(p.numel() for p in model.network(member).parameters()) for member in model.plans}
    assert sizes['student1'] == sizes['student2'] and sizes.get('teacher', 10**9) > 2 * sizes['student1']


@pytest.mark.parametrize('name', CONTROLS)
def test_a_control_differs_from_its_base_in_what_is_shared_only(name):
    own, base = flatten(load(name).to_dict()), flatten(load(base_of(name)).to_dict())
    different = {key for key in own.keys() | base.keys() if own.get(key, '-') != base.get(key, '-')}
    assert different and own['model.sharing.type'] != base['model.sharing.type']
    without_teacher = 'model.members.teacher' if method(name) == 'ml' else 'nothing'
    assert [key for key in sorted(different) if not key.startswith(('model.sharing.', without_teacher))] == []
    if method(name) == 'ml':
        assert own['model.members.teacher'] is None and 'no teacher' in header(name)


@pytest.mark.parametrize('name', [name for name in NAMES if re.search(r'\d (px|epochs)', header(name))])
def test_headers_tell_the_truth(name):
    cfg, text = load(name), header(name)
    for size in map(int, re.findall(r'(\d+) px', text)):
        for kind, pipeline in pipelines(cfg).items():
            assert [tuple(step.scale) for step in pipeline if step.type == 'Resize'] == [(size, size)], kind
    for epochs in map(int, re.findall(r'(\d+) epochs', text)):
        assert cfg.train_cfg.max_epochs == epochs


@pytest.mark.parametrize('name', KDML)
@pytest.mark.parametrize('height, width', [(90, 90), (60, 100), (100, 60)])
def test_pipelines_give_squares_of_one_size(name, height, width, tmp_path):
    cfg = load(name)
    padded = all(any(step.type == 'Pad' for step in pipeline) for pipeline in pipelines(cfg).values())
    if not padded:
        assert name.endswith('_demo')  # its frames are square
        height = width
    cv2.imwrite(str(tmp_path / 'x.png'), np.full((height, width, 3), 90, dtype=np.uint8))
    sides = set()
    for kind, pipeline in pipelines(cfg).items():
        frame = dict(img_path=str(tmp_path / 'x.png'), img_id=0, height=height, width=width,
                     instances=[dict(bbox=[20, 20, 50, 45], bbox_label=0, ignore_flag=0)])
        packed = Compose(pipeline)(frame)
        channels, side, other = packed['inputs'].shape
        assert channels == 3 and side == other and side % 32 == 0
        sides.add(side)
        sample = packed['data_samples']
        boxes = sample.gt_instances.bboxes.tensor
        assert sample.ori_shape == (height, width)
        assert sample.scale_factor[0] == pytest.approx(side / max(height, width), rel=0.02)
        assert len(boxes) == 1 and (boxes[:, 2:] > boxes[:, :2] + 5).all() and boxes.min() >= 0 and boxes.max() <= side, kind
    assert len(sides) == 1


@pytest.mark.parametrize('name', NAMES)
def test_loaders_evaluators_and_schedules_agree(name):
    cfg = load(name)
    train = cfg.train_dataloader.dataset
    train = train.get('dataset', train)
    assert train.data_root == cfg.val_dataloader.dataset.data_root == cfg.data_root
    assert train.ann_file != cfg.val_dataloader.dataset.ann_file
    assert cfg.val_evaluator.ann_file == cfg.data_root + cfg.val_dataloader.dataset.ann_file
    assert cfg.test_dataloader == cfg.val_dataloader and cfg.test_evaluator == cfg.val_evaluator
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size
    cosine = [s for s in cfg.param_scheduler if s.type == 'CosineAnnealingLR']
    assert [s.T_max for s in cosine] == [cfg.train_cfg.max_epochs]
    assert cosine[0].eta_min == pytest.approx(cfg.optim_wrapper.optimizer.lr / 20)
    assert cfg.train_cfg.val_interval <= cfg.train_cfg.max_epochs
