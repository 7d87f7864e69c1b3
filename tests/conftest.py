"""Small real networks and batches that the tests share."""

import gc
import importlib
import inspect
import itertools
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

import mmkd  # noqa: F401
from mmkd.utils.light_imports import light_imports
from mmkd.utils.memory_format import FUNCTIONS

COUNTER = itertools.count()
ROOT = Path(__file__).resolve().parents[1]
NARROW = {
    'backbone.widen_factor': 0.125,
    'neck.in_channels': [32, 64, 128],
    'neck.out_channels': 32,
    'bbox_head.in_channels': 32,
    'bbox_head.feat_channels': 32,
    'bbox_head.num_classes': 1,
}
WIDER = dict(
    NARROW,
    **{
        'backbone.widen_factor': 0.25,
        'neck.in_channels': [64, 128, 256],
        'neck.out_channels': 48,
        'bbox_head.in_channels': 48,
        'bbox_head.feat_channels': 32,
    },
)
YOLOX = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
PLAIN = dict(type='DetDataPreprocessor', pad_size_divisor=32)

# A plain toolbox's tool, in a process where mmkd can't be imported; torchvision's operators are
# declared if need be.
PLAIN_PROCESS = f"""import runpy, sys
runpy.run_path({str(ROOT / 'mmkd/utils/torchvision_shim.py')!r})['install']()
sys.modules['mmkd'] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def yolox(**kwargs):
    """A narrow YOLOX member's config."""
    return dict(dict(config=YOLOX, options=NARROW), **kwargs)


def members(students=2, teacher=True, **kwargs):
    """A teacher (wider) and students."""
    teacher = yolox(options=WIDER, seed=10) if teacher is True else teacher
    named = dict(teacher=teacher) if teacher else {}
    named.update({f'student{i}': yolox(seed=i) for i in range(1, students + 1)})
    return dict(named, **kwargs)


def make_distiller(init=True, **kwargs):
    """Build an OnlineDistiller from config keys."""
    from mmengine.registry import MODELS

    kwargs.setdefault('members', members())
    kwargs.setdefault('data_preprocessor', dict(PLAIN))
    model = MODELS.build(dict(type='mmkd.OnlineDistiller', **kwargs))
    if init:
        model.init_weights()
    return model.train()


def make_batch(n=2, size=64, seed=0):
    """A loader's batch as mmdet collates it: raw uint8 images, data samples with a box or two."""
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(seed)
    batch = dict(inputs=[], data_samples=[])
    for i in range(n):
        batch['inputs'].append(
            torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        )
        corner = torch.rand(1 + i % 2, 2, generator=generator) * size * 0.4
        boxes = torch.cat(
            [corner, corner + size * (0.2 + 0.3 * torch.rand(len(corner), 2, generator=generator))],
            1,
        )
        sample = DetDataSample(
            metainfo=dict(
                img_id=i, img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0)
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long)
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        batch['data_samples'].append(sample)
    return batch


def optim_wrapper(model, **cfg):
    """The members' optimisers."""
    from mmengine.optim import build_optim_wrapper

    cfg.setdefault('optimizer', dict(type='SGD', lr=0.01, momentum=0.9))
    return build_optim_wrapper(model, dict(constructor='mmkd.MemberOptimWrapperConstructor', **cfg))


# Files that take longest. Begun first, they do not leave one process alone at the end
# (`--dist loadfile --no-loadscope-reorder`).
LONGEST = (
    'test_wrong_inputs',
    'test_distributed',
    'test_runner',
    'test_resumable_train_loop',
    'test_skip_unreadable',
    'test_run_tools',
    'test_run_seg_cls',
    'test_launch_scripts',
    'test_study_run',
    'test_survival',
    'test_study',
    'test_doctor',
    'test_benchmark',
    'test_iekd',
    'test_resume',
    'test_mixing_runs',
    'test_inferencer',
    'test_notebooks',
    'test_onnx',
    'test_member_optim_wrapper',
)


def pytest_sessionstart(session):
    """Import MMDetection as the tools do, in the processes that run tests."""
    if session.config.getoption('numprocesses', None) is None:
        with light_imports():
            import mmdet.models  # noqa: F401
        gc.freeze()  # collections, and forks that load images, pass over what is imported


def pytest_collection_modifyitems(items):
    """Put the longest files first."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """A synthetic set of 12 and 6 frames of 64 px."""
    root = tmp_path_factory.mktemp('data') / 'polyps'
    from mmkd.datasets.converters.synthetic import write_synthetic_polyps

    write_synthetic_polyps(root, train=12, val=6, size=64)
    return root


@pytest.fixture(scope='session')
def checkpoints(data, tmp_path_factory):
    """By task the checkpoint of an untrained demo model, with the config beside it."""
    import small_models

    for package in ('mmseg', 'mmpretrain'):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp('models')
    return {
        task: small_models.write_checkpoint(task, data, folder) for task in small_models.CLASSES
    }


def small_config(data, work_dir, **changes):
    """The demo config with narrower members, on 64 px frames."""
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / 'configs/mmkd/polyp_yolox_kdml_demo.py')
    root = f'{data}/'
    train = cfg.train_dataloader.dataset.dataset
    train.data_root, cfg.val_dataloader.dataset.data_root = root, root
    cfg.train_dataloader.dataset.times = 1
    cfg.train_dataloader.batch_size = 4
    cfg.test_dataloader = cfg.val_dataloader
    for part in (train, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        for step in part.pipeline:
            if step.type == 'Resize':
                step.scale = (64, 64)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = f'{root}annotations/val.json'
    cfg.model.members.teacher.options = {
        **WIDER,
        'test_cfg.score_thr': 0.0,
    }  # hardly trained: keep every box
    for name in ('student1', 'student2'):
        cfg.model.members[name].options = {**NARROW, 'test_cfg.score_thr': 0.0}
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    # Loggers are kept by name and second: two Runners of one second would share a log file.
    cfg.experiment_name = f'test_{next(COUNTER)}'
    cfg.visualizer.name = (
        f'test_{next(COUNTER)}'  # mmengine has one a name and process, with the first one's folder
    )
    cfg.merge_from_dict(changes)
    return cfg


def plain_figures(runner, name):
    """What the toolbox's own validation of a member's network gives (mmengine's ValLoop)."""
    evaluator = runner.build_evaluator(runner.cfg.val_evaluator)
    loader, network = runner.val_loop.dataloader, runner.model.network(name)
    evaluator.dataset_meta = loader.dataset.metainfo
    network.eval()
    with torch.no_grad():
        for batch in loader:
            evaluator.process(data_samples=network.val_step(batch), data_batch=batch)
    return evaluator.evaluate(len(loader.dataset))


def check_figures(runner, metrics, names):
    """Raise unless one validation of all gives each member the toolbox's figures."""
    for name in names:
        figures = plain_figures(runner, name)
        own = {key: value for key, value in metrics.items() if key.split('/')[0] == name}
        assert own == pytest.approx({f'{name}/{k}': v for k, v in figures.items()}, nan_ok=True)


def check_imports(stderr, toolbox):
    """Raise if a process with PYTHONPROFILEIMPORTTIME imported what its config does not need."""
    names = {line.split('|')[-1].strip() for line in stderr.splitlines() if 'import time:' in line}
    assert f'{toolbox}.registry' in names and len(names) < 4400, len(names)
    boxes = {'mmdet', 'mmseg', 'mmpretrain'} - {toolbox}
    unneeded = {f'{name}.registry' for name in boxes}
    unneeded |= {'imgaug.imgaug', 'imagecorruptions.corruptions', 'skimage._shared', 'timm.models'}
    if toolbox != 'mmpretrain':  # its metrics are of sklearn
        unneeded |= {'sklearn.base', 'pandas.core'}
    assert not names & unneeded, names & unneeded


@pytest.fixture(scope='module')
def unformatted_configs(tmp_path_factory):
    """Keep yapf, which takes seconds a config, out of this process and its children."""
    stub = tmp_path_factory.mktemp('stub')
    (stub / 'yapf/yapflib').mkdir(parents=True)
    (stub / 'yapf/__init__.py').write_text("__version__ = '0.43.0'\n")
    (stub / 'yapf/yapflib/__init__.py').write_text('')
    (stub / 'yapf/yapflib/yapf_api.py').write_text(
        'def FormatCode(text, *args, **kwargs):\n    return text, True\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'yapf.yapflib.yapf_api.FormatCode', lambda text, *args, **kwargs: (text, True)
        )
        patch.setenv('PYTHONPATH', str(stub), prepend=os.pathsep)
        yield


@pytest.fixture(scope='module', autouse=True)
def light_collections():
    """Let collections (one for each data set that is built) pass over what is there before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_state():
    """Each test starts from seed 0, mmdet's scope and an empty message hub."""
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    DefaultScope._instance_dict.clear()  # a Runner of the same second would keep an older scope
    DefaultScope.get_instance(f'test-{next(COUNTER)}', scope_name='mmdet')
    MessageHub._instance_dict.clear()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    yield


@pytest.fixture
def plain_operators(monkeypatch):
    """mmcv's operators as they come, whatever a test before has done to them."""
    for file, name in FUNCTIONS:
        function = getattr(importlib.import_module(f'mmcv.ops.{file}'), name)
        monkeypatch.setattr(function, 'forward', staticmethod(inspect.unwrap(function.forward)))


@pytest.fixture
def toolkit():
    """The helpers above, for tests (no relative imports between test files)."""
    import types

    return types.SimpleNamespace(
        **{name: value for name, value in globals().items() if not name.startswith('_')}
    )
