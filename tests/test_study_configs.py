import copy
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmkd.models.distillers.member_spec import MemberSpec

for package in ('mmseg', 'mmpretrain', 'timm'):
    pytest.importorskip(package)

FOLDER = Path(__file__).resolve().parents[1] / 'configs' / 'mmkd' / 'studies'
CONFIGS = {path.stem: Config.fromfile(path) for path in sorted(FOLDER.glob('*.py'))}
STUDIES = [name for name, cfg in CONFIGS.items() if 'model' in cfg and 'kvasir' in name]
SEGMENTERS = [name for name in STUDIES if CONFIGS[name].default_scope == 'mmseg']
TUNING = [name for name in STUDIES if name.endswith('_tune')]
LOADERS = ('train', 'unlabeled', 'val')
IMAGES = dict(train=120, val=3)
COUNTER = itertools.count()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with small images where the configs look for Kvasir-SEG."""
    root = tmp_path_factory.mktemp('studies')
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 10:25] = 1
    image = np.stack([mask * 150 + 50] * 3, -1)
    for kind, folder in itertools.product(IMAGES, ('images', 'masks')):
        place = root / 'data' / 'kvasir' / folder / kind
        place.mkdir(parents=True)
        suffix, content = ('jpg', image) if folder == 'images' else ('png', mask)
        for i in range(IMAGES[kind]):
            cv2.imwrite(str(place / f'{kind}{i:03}.{suffix}'), content)
    place = root / 'data/kvasir/annotations'
    place.mkdir()
    for kind, count in IMAGES.items():
        images = [
            dict(id=i, file_name=f'{kind}{i:03}.jpg', height=30, width=40) for i in range(count)
        ]
        boxes = [
            dict(id=i, image_id=i, category_id=1, bbox=[10, 10, 15, 10], area=150, iscrowd=0)
            for i in range(count)
        ]
        content = dict(images=images, annotations=boxes, categories=[dict(id=1, name='polyp')])
        (place / f'{kind}.json').write_text(json.dumps(content))
    return root


@pytest.fixture
def here(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    scope = CONFIGS[name].default_scope
    DefaultScope.get_instance(f'study-{next(COUNTER)}', scope_name=scope)


def build_model(name):
    """The study's model with encoders from scratch; frozen members, and those that a stage trains
    first, have a checkpoint.
    """
    cfg = CONFIGS[name]
    model = copy.deepcopy(cfg.model)
    members = {key: member for key, member in model.members.items() if member is not None}
    first = cfg.get('pretrain', {}).get('members', [])
    first = [first] if isinstance(first, str) else first
    for key, member in members.items():
        given = member.options if isinstance(member.config, str) else member.config
        if given.backbone.type == 'mmkd.EfficientNetLite':
            given.backbone.pretrained = False
        if key in first or member.get('training') == 'frozen':
            path = Path(member.get('checkpoint') or f'{key}.pth')
            member.update(training='frozen', checkpoint=str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            network = MemberSpec(key, member.config, member.get('options')).build(0)
            torch.save(network.state_dict(), path)
    return MODELS.build(dict(model, members=members))


def datasets(name):
    return {
        kind: DATASETS.build(CONFIGS[name][f'{kind}_dataloader'].dataset)
        for kind in LOADERS
        if f'{kind}_dataloader' in CONFIGS[name]
    }


def files(dataset):
    return {Path(dataset.get_data_info(i)['img_path']).stem for i in range(len(dataset))}


@pytest.mark.parametrize('name', [name for name in STUDIES if name not in TUNING])
def test_a_step_of_training_and_a_prediction(name, here):
    """Those for tuning have their study's model, as the test below says."""
    model, sets = build_model(name), datasets(name)
    model.init_weights()
    assert not model.members.renormalize  # all see the images that ImageNet's weights expect
    batch = pseudo_collate([sets['train'][i] for i in range(2)])
    if 'unlabeled' in sets:
        batch['unlabeled'] = pseudo_collate([sets['unlabeled'][i] for i in range(2)])
    data = model.data_preprocessor(batch, True)
    model.train()
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    for member, loss in losses.items():
        loss.backward()
        network = model.network(member)
        if name in SEGMENTERS:
            last = network.decode_head.conv_seg
        elif 'yolox' in name:
            last = network.bbox_head.multi_level_conv_cls[0]
        else:
            last = network.bbox_head.atss_cls
        assert last.weight.grad is not None and torch.isfinite(last.weight.grad).all(), member
    (predicted,) = model.predict_members(pseudo_collate([sets['val'][0]]))['ensemble']
    if name in SEGMENTERS:
        assert predicted.pred_sem_seg.shape == (30, 40)
    else:
        assert predicted.pred_instances.bboxes.shape[1] == 4


@pytest.mark.parametrize('name', SEGMENTERS)
def test_evaluation_is_at_the_original_size(name, here):
    sample = datasets(name)['val'][0]['data_samples']
    assert sample.gt_sem_seg.shape == sample.ori_shape == (30, 40)
    assert any(metric.type == 'mmkd.PolypSegMetric' for metric in CONFIGS[name].val_evaluator)


@pytest.mark.parametrize('name', STUDIES)
def test_images_are_not_shared(name, here):
    """Neither the labeled and the unlabeled images nor those of training and evaluation overlap."""
    found = {kind: files(dataset) for kind, dataset in datasets(name).items()}
    for one, other in itertools.combinations(found.values(), 2):
        assert not one & other
    used = found['train'] | found.get('unlabeled', set())
    if name in TUNING or name == 'kvasir_boxes_teacher':  # of the training list alone
        assert all(stem.startswith('train') for stem in used | found['val'])
        assert len(found['val']) == 100 and len(used) == 20
    else:
        assert len(used) == 120 and all(stem.startswith('val') for stem in found['val'])


@pytest.mark.parametrize(
    'name', [name for name in STUDIES if 'unlabeled_dataloader' in CONFIGS[name]]
)
def test_a_share_is_labeled_and_unlabeled_images_have_no_labels(name, here):
    sets = datasets(name)
    share = 0.25 if 'yolox' in name else 0.1
    total = len(sets['train']) + len(sets['unlabeled'])
    assert len(sets['train']) == pytest.approx(share * total)
    sample = sets['unlabeled'][0]['data_samples']
    assert 'gt_sem_seg' not in sample and not len(sample.get('gt_instances', []))


def test_tuning_differs_from_its_study_in_the_images_alone():
    for name in TUNING:
        cfg, study = (CONFIGS[n].to_dict() for n in (name, name.removesuffix('_tune')))
        for key in study:
            if key.endswith('_dataloader') or key.startswith('_'):
                continue
            if key.endswith('_evaluator') and name not in SEGMENTERS:
                continue  # the file of the boxes is another one
            if key == 'model':
                for member in cfg['model']['members'].values(), study['model']['members'].values():
                    for entry in member:
                        entry.pop('checkpoint', None)
            assert cfg[key] == study[key], (name, key)


def test_the_study_of_classification(tmp_path, monkeypatch):
    """Tuning takes other images than the study's evaluation, and a step trains each member."""
    for split, count in (('train', 4), ('val', 1)):
        for label, i in itertools.product(range(20), range(count)):
            place = tmp_path / 'data/tinyimagenet20' / split / f'n{label:02}'
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f'{split}{label}_{i}.png'), np.full((64, 64, 3), label * 10))
    monkeypatch.chdir(tmp_path)
    DefaultScope.get_instance(f'study-{next(COUNTER)}', scope_name='mmpretrain')
    cfg = CONFIGS['tiny20_peers_tune'].copy()
    cfg.train_dataloader.dataset.count = 10
    for loader in cfg.train_dataloader.dataset, cfg.val_dataloader:
        loader.dataset.count = 20
    train, tune, val = (
        DATASETS.build(config.dataset)
        for config in (
            cfg.train_dataloader,
            cfg.val_dataloader,
            CONFIGS['tiny20_peers'].val_dataloader,
        )
    )
    assert (len(train), len(tune), len(val)) == (10, 20, 20)
    assert not files(train) & files(tune) and not (files(train) | files(tune)) & files(val)
    model = MODELS.build(dict(cfg.model, sharing=dict(type='kdml_p', tau=3.0))).train()
    model.init_weights()
    model.progress = 0.5
    data = model.data_preprocessor(pseudo_collate([train[i] for i in range(4)]), True)
    losses, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    assert sorted(losses) == ['student1', 'student2', 'teacher']
    assert all(torch.isfinite(loss) and loss.requires_grad for loss in losses.values())


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith('polyp_')])
def test_the_studies_of_detection(name):
    """A step of the links trains each member, at the size that the loaders give."""
    from mmkd.apis.detector_pairs import SIZE, batch

    DefaultScope.get_instance(f'study-{next(COUNTER)}', scope_name='mmdet')
    cfg = CONFIGS[name].copy()
    for loader in cfg.train_dataloader, cfg.val_dataloader:
        (scale,) = (step.scale for step in loader.dataset.pipeline if step.type == 'Resize')
        assert scale == (SIZE, SIZE)
    for member in cfg.model.members.values():
        member.options.backbone.pretrained = False
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    assert not model.members.renormalize  # all see the images that ImageNet's weights expect
    data = batch()
    for sample in data['data_samples']:
        sample.gt_instances.labels[:] = 0
    data = model.data_preprocessor(data, True)
    losses, terms = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    assert sum('[teacher:' in key for key in terms) == 2
    assert sorted(losses) == ['student1', 'student2', 'teacher']
    assert all(torch.isfinite(loss) and loss.requires_grad for loss in losses.values())
