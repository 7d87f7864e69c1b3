import itertools
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, DefaultScope

FOLDER = Path(__file__).resolve().parents[1] / 'configs' / 'mmkd'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
YOLOX = [name for name in NAMES if name.startswith('polyp_yolox_')]
KDML = [name for name in YOLOX if '_kdml' in name]
COUNTER = itertools.count()


def load(name):
    """The config, with its own scope as the default one."""
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    pytest.importorskip(cfg.default_scope)
    if 'EfficientNetLite' in cfg.text:
        pytest.importorskip('timm')
    DefaultScope.get_instance(f'config-{next(COUNTER)}', scope_name=cfg.default_scope)
    return cfg


def header(name):
    """The comment that a config starts with."""
    lines = (FOLDER / f'{name}.py').read_text().splitlines()
    return ' '.join(
        line.lstrip('# ') for line in itertools.takewhile(lambda line: line.startswith('#'), lines)
    )


CONTROLS = [name for name in NAMES if header(name).startswith('Control')]


def method(name):
    return name.split('_')[2]


def base_of(name):
    """The config that a control is compared with."""
    return name.replace(f'_{method(name)}', '_kdml')


def flatten(value, prefix=''):
    """Dotted keys and values of a config."""
    if isinstance(value, dict) and value:
        return {
            k: v
            for key, item in value.items()
            for k, v in flatten(item, f'{prefix}.{key}' if prefix else key).items()
        }
    return {prefix: value}


def datasets(cfg):
    """The three loaders' data sets, a repeated one's own inside."""
    found = {kind: cfg[f'{kind}_dataloader'].dataset for kind in ('train', 'val', 'test')}
    return {kind: dataset.get('dataset', dataset) for kind, dataset in found.items()}


def sizes(pipeline):
    scales = [step.scale for step in pipeline if step.type in ('Resize', 'RandomResize')]
    return [(scale, scale) if isinstance(scale, int) else tuple(scale) for scale in scales]


def test_each_method_for_yolox_has_its_controls():
    assert {method(name) for name in YOLOX} == {'kdml', 'kd', 'ml', 'individual'}
    assert set(CONTROLS) >= {name for name in YOLOX if name not in KDML} and not set(
        CONTROLS
    ) & set(KDML)
    assert all(base_of(name) in NAMES for name in CONTROLS)


@pytest.mark.parametrize('name', NAMES)
def test_the_model_builds_and_every_student_learns(name):
    model = MODELS.build(load(name).model)
    students = [member for member in model.specs if member != 'teacher']
    one = re.match('iekd_(resnet|study)|student_centric', name)
    assert students == (['student1'] if one else ['student1', 'student2'])
    if 'individual' not in name:
        assert {link.target for link in model.links} == set(students)
    parameters = {
        member: sum(p.numel() for p in model.network(member).parameters()) for member in model.specs
    }
    assert len({parameters[member] for member in students}) == 1
    times = 1.3 if '_lite_' in name else 2  # EfficientNet-Lite2 is 1.4 to 1.6 times Lite0
    if 'sees the images enlarged' in header(name):
        times = 1
    assert 'teacher' not in parameters or parameters['teacher'] > times * parameters['student1']


@pytest.mark.parametrize(
    'name', ['iekd', 'metamixer', 'msi_resnet_kdml', 'polyp_unet_mixed', 'student_centric']
)
def test_the_arms_of_a_study_build_and_the_control_has_no_links(name):
    from mmkd.apis.study.plan import load_plan
    from mmkd.apis.study.results import check_arms, run_config

    plan = load_plan(FOLDER.parents[1] / f'docs/studies/{name}/plan.py', trial=True)
    load(Path(plan.config).stem)
    counts = {}
    for arm in plan.arms:
        model = MODELS.build(run_config(plan, arm, 0).model)
        counts[arm] = (
            len(model.links),
            sum(p.numel() for p in model.network('student1').parameters()),
        )
        assert set(plan.members_of(arm)) <= set(model.specs)
    assert counts[plan.control][0] == 0 and max(count for count, _ in counts.values()) > 0
    if 'self_taught' in counts:
        assert (
            counts['self_taught'][0] == 0
            and counts['self_taught'][1] == counts['all'][1] > counts['baseline'][1]
        )
    assert len(set(check_arms(plan).values())) == len(plan.arms) * len(plan.seeds)


@pytest.mark.parametrize('name', ['student_centric_plain', 'student_centric_plain_tiny'])
def test_the_plain_networks_have_5_and_11_layers(name):
    model = MODELS.build(load(name).model)
    layers = {
        member: sum(
            type(m).__name__ in ('Conv2d', 'Linear') for m in model.network(member).modules()
        )
        for member in model.specs
    }
    assert layers == dict(student1=5, teacher=11)


@pytest.mark.parametrize('name', YOLOX)
def test_members_and_links_are_those_of_the_methods_name(name):
    model = MODELS.build(load(name).model)
    sources = [link.spec.label for link in model.links]
    from_teacher, between = dict(kdml=(2, 2), kd=(2, 0), ml=(0, 2), individual=(0, 0))[method(name)]
    assert sources.count('teacher') == from_teacher and len(sources) == from_teacher + between
    assert {link.source_tap for link in model.links} <= {'prediction'}
    assert ('teacher' in model.specs) == (method(name) != 'ml')
    assert all(model.network(member).bbox_head.num_classes == 1 for member in model.specs)


@pytest.mark.parametrize('name', CONTROLS)
def test_a_control_differs_from_its_base_in_what_is_shared_only(name):
    own, base = flatten(load(name).to_dict()), flatten(load(base_of(name)).to_dict())
    different = sorted(
        key for key in own.keys() | base.keys() if own.get(key, '-') != base.get(key, '-')
    )
    if 'no teacher' in header(name):
        assert own['model.members.teacher'] is None
        different = [key for key in different if not key.startswith('model.members.teacher')]
    assert different == ['model.sharing.type']


@pytest.mark.parametrize(
    'name', [name for name in NAMES if re.search(r' at \d+ px|\d epochs', header(name))]
)
def test_headers_tell_the_truth(name):
    cfg, text = load(name), header(name)
    for size in map(int, re.findall(r' at (\d+) px', text)):
        assert [sizes(dataset.pipeline) for dataset in datasets(cfg).values()] == [
            [(size, size)]
        ] * 3
    for epochs in map(int, re.findall(r'(\d+) epochs', text)):
        assert cfg.train_cfg.max_epochs == epochs


@pytest.mark.parametrize('name', KDML)
@pytest.mark.parametrize('height, width', [(90, 90), (60, 100), (100, 60)])
def test_detection_pipelines_give_squares_of_one_size(name, height, width, tmp_path):
    pipelines = {kind: dataset.pipeline for kind, dataset in datasets(load(name)).items()}
    if not all(any(step.type == 'Pad' for step in pipeline) for pipeline in pipelines.values()):
        assert name.endswith('_demo')  # its frames are squares
        height = width
    cv2.imwrite(str(tmp_path / 'x.png'), np.full((height, width, 3), 90, dtype=np.uint8))
    sides = set()
    for kind, pipeline in pipelines.items():
        frame = dict(
            img_path=str(tmp_path / 'x.png'),
            img_id=0,
            height=height,
            width=width,
            instances=[dict(bbox=[20, 20, 50, 45], bbox_label=0, ignore_flag=0)],
        )
        packed = Compose(pipeline)(frame)
        channels, side, other = packed['inputs'].shape
        assert channels == 3 and side == other and side % 32 == 0
        sides.add(side)
        sample = packed['data_samples']
        assert sample.ori_shape == (height, width)
        assert sample.scale_factor[0] == pytest.approx(side / max(height, width), rel=0.02)
        boxes = sample.gt_instances.bboxes.tensor
        assert (
            len(boxes) == 1
            and (boxes[:, 2:] > boxes[:, :2] + 5).all()
            and boxes.min() >= 0
            and boxes.max() <= side
        ), kind
    assert len(sides) == 1


@pytest.mark.parametrize('name', NAMES)
def test_loaders_evaluators_and_schedules_agree(name):
    cfg = load(name)
    train, val, _ = datasets(cfg).values()
    assert train.data_root == val.data_root == cfg.data_root and train != val
    assert cfg.test_dataloader == cfg.val_dataloader and cfg.test_evaluator == cfg.val_evaluator
    end = cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters'))
    assert [s.T_max for s in cfg.param_scheduler if s.type == 'CosineAnnealingLR'] == [end]
    assert cfg.train_cfg.val_interval <= end
    if name in YOLOX:
        assert (
            train.ann_file != val.ann_file
            and cfg.val_evaluator.ann_file == cfg.data_root + val.ann_file
        )
        assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size
        assert cfg.param_scheduler[-1].eta_min == pytest.approx(cfg.optim_wrapper.optimizer.lr / 20)
