"""What a loop looks at before its first iteration."""

import json
import random
import types

import distributed_worker
import numpy as np
import pytest
import torch
from light_training import light_config, loader
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from mmkd.engine.loops.data_checks import check_data, check_unlabeled_given
from mmkd.models.distillers.preprocessing import tell_other_padding
from mmkd.utils.errors import ConfigError

ITEM = dict(inputs=torch.zeros(3, 8, 8), data_samples=object())


class Data(list):
    metainfo = dict(classes=('polyp',))


class Failing(Data):
    def __getitem__(self, index):
        raise ZeroDivisionError('no pixels')


class Unlabeled(Data):
    def __getitem__(self, index):
        raise KeyError('gt_path')


class Drawing(Data):
    def __getitem__(self, index):
        torch.rand(1), np.random.rand(), random.random()
        return super().__getitem__(index)


def built(classes=1, normalizes=False):
    network = nn.Conv2d(12, 4, 1)
    model = nn.Module()
    model.specs = dict(a=None)
    model.members = types.SimpleNamespace(networks=lambda: dict(a=network))
    model.network = lambda name: network
    model.task = types.SimpleNamespace(num_classes=lambda network: classes)
    model.data_preprocessor = types.SimpleNamespace(_enable_normalize=normalizes)
    return model


def test_what_fits_draws_nothing_from_the_training():
    fitting = built()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    check_data(fitting, Drawing([ITEM]), 'train_dataloader', ['a', 'ensemble'])
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    check_data(built(classes=None), Data([ITEM]), 'val_dataloader', ['a'])
    check_data(built(classes=7), Data([dict(inputs=ITEM['inputs'])]), 'unlabeled_dataloader')
    check_data(built(normalizes=True), Data([dict(ITEM, inputs=torch.zeros(1, 8, 8))]), 'x')
    check_data(nn.Linear(1, 1), Data([{}]), 'train_dataloader')
    check_data(built(), Data(), 'train_dataloader')  # the loop tells that it is empty


@pytest.mark.parametrize(
    'data, key, message',
    [
        (Data([{}]), 'train_dataloader', 'have no inputs and no data_samples; the last step must'),
        (Data([dict(inputs=ITEM['inputs'])]), 'val_dataloader', 'its items have no data_samples'),
        (Data([(1, 2)]), 'val_dataloader', 'val_dataloader.dataset.pipeline: its items have no'),
        (
            Failing([1]),
            'test_dataloader',
            'first item cannot be made: ZeroDiv.*: no pixels',
        ),
        (Unlabeled([1]), 'train_dataloader', 'first item cannot be made: KeyError: gt_path$'),
        (
            Data([dict(ITEM, inputs=torch.zeros(1, 8, 8))]),
            'train_dataloader',
            "images of one channel, which 'a' cannot take",
        ),
    ],
)
def test_items_that_no_member_takes(data, key, message):
    with pytest.raises(ConfigError, match=message):
        check_data(built(), data, key, ['a'])


def test_classes_of_heads_and_data():
    message = r'model.members.a: its head tells 80 classes apart, the data of {} have 1 \(polyp\)'
    with pytest.raises(ConfigError, match=message.format('train_dataloader') + '.*options$'):
        check_data(built(classes=80), Data([ITEM]), 'train_dataloader', ['a'])
    with pytest.raises(ConfigError, match=message.format('val_dataloader') + '.*val_cfg.members$'):
        check_data(built(classes=80), Data([ITEM]), 'val_dataloader', ['a'])


def segmenters(toolkit, **sharing):
    pytest.importorskip('mmseg')
    DefaultScope.get_instance('unlabeled-checks', scope_name='mmseg')
    cfg = distributed_worker.segmentation('cps')
    cfg['data_preprocessor'].pop('size')
    cfg['sharing'] = sharing
    return toolkit.make_distiller(**cfg)


def test_unlabeled_images_of_a_size_that_a_member_does_not_take(toolkit):
    """Told before the training, which they do not change; those of labeled images are padded."""
    model = segmenters(toolkit, type='cps')
    whole = Data([dict(inputs=torch.zeros(3, 40, 48, dtype=torch.uint8))])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = {name: spec.stream.state_dict()['cpu'] for name, spec in model.specs.items()}
    state = torch.get_rng_state()
    check_data(model, whole, 'unlabeled_dataloader')
    assert model.training and torch.get_rng_state().equal(state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for name, spec in model.specs.items():
        assert spec.stream.state_dict()['cpu'].equal(drawn[name])
    odd = Data([dict(inputs=torch.zeros(3, 40, 45, dtype=torch.uint8))])
    message = "unlabeled_dataloader: images of 45 x 40: 'student1' does not take them: .*divisible"
    with pytest.raises(ConfigError, match=message):
        check_data(model, odd, 'unlabeled_dataloader')
    check_data(segmenters(toolkit, type='individual'), odd, 'unlabeled_dataloader')  # not loaded


def test_labeled_images_of_a_size_that_a_linked_member_does_not_take(toolkit):
    sample = BaseDataElement(gt_sem_seg=PixelData(data=torch.zeros(1, 40, 45, dtype=torch.long)))
    odd = Data([dict(inputs=torch.zeros(3, 40, 45, dtype=torch.uint8), data_samples=sample)])
    odd.metainfo = dict(classes=('background', 'polyp'))
    model = segmenters(toolkit, type='ml_p')
    message = 'model.data_preprocessor: the first image of train_dataloader .*one of size and size'
    with pytest.raises(ConfigError, match=message):
        check_data(model, odd, 'train_dataloader')
    model.data_preprocessor.size_divisor = 1
    message = "train_dataloader: images of 45 x 40: 'student1' does not take them: .*divisible"
    with pytest.raises(ConfigError, match=message):
        check_data(model, odd, 'train_dataloader')
    sample.gt_sem_seg.data[..., 0, 0] = 7
    names = ['student1']
    message = "label map of the first image has the value 7, the head of 'student1' tells 2 classes"
    with pytest.raises(ConfigError, match=message):
        check_data(segmenters(toolkit, type='individual'), odd, 'train_dataloader', names)
    sample.gt_sem_seg.data[..., 0, 0] = 255  # ignored
    check_data(segmenters(toolkit, type='individual'), odd, 'train_dataloader', names)
    model = segmenters(toolkit, type='individual')
    sample.gt_sem_seg.data[..., 0, 0] = model.network('student1').decode_head.ignore_index = 9
    check_data(model, odd, 'train_dataloader', names)


def test_a_level_of_one_pixel_in_a_group_norm_of_as_many_groups(toolkit):
    """torch refuses a single value a group, of one image alone."""
    options = {
        'data_preprocessor': dict(toolkit.PLAIN),
        'backbone.init_cfg': None,
        'backbone.depth': 18,
        'backbone.base_channels': 4,
        'backbone.stem_channels': 4,
        'neck.in_channels': [4, 8, 16, 32],
        'neck.out_channels': 8,
        'bbox_head.in_channels': 8,
        'bbox_head.feat_channels': 32,
        'bbox_head.num_classes': 1,
    }
    fcos = dict(config='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', options=options)
    model = toolkit.make_distiller(members=dict(a=fcos, b=fcos), sharing='ml_p')
    item = {key: values[0] for key, values in toolkit.make_batch(size=64).items()}
    check_data(model, Data([item]), 'train_dataloader')


def test_classes_that_a_coco_file_lacks(tmp_path):
    """mmdet would give their places to the classes behind them."""
    names = ['adenoma', 'serrated', 'other']
    file = tmp_path / 'train.json'
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    file.write_text(json.dumps(dict(categories=categories)))
    data = Data([ITEM])
    data.ann_file, data.backend_args, data.cat_ids = str(file), None, [1, 2]
    data.metainfo = dict(classes=('adenmoa', 'serrated', 'other'))
    message = f"metainfo.classes, {file}: unknown name 'adenmoa'; did you mean 'adenoma'"
    with pytest.raises(ConfigError, match=f'train_dataloader.dataset.{message}'):
        check_data(built(classes=3), data, 'train_dataloader', ['a'])
    repeated = Data([ITEM])
    repeated.metainfo, repeated.dataset = data.metainfo, data
    with pytest.raises(ConfigError, match=f'val_dataloader.dataset.dataset.{message}'):
        check_data(built(classes=3), repeated, 'val_dataloader', ['a'])
    data.cat_ids, data.metainfo = [0, 1, 2], dict(classes=tuple(names))
    check_data(built(classes=3), data, 'train_dataloader', ['a'])


def test_links_on_unlabeled_images_need_a_loader(toolkit):
    model = segmenters(toolkit, type='cps')
    message = r'unlabeled_dataloader: must be given in the config, since model.sharing \(cps\)\[0\]'
    with pytest.raises(ConfigError, match=message):
        check_unlabeled_given(model, given=False)
    check_unlabeled_given(model, given=True)
    check_unlabeled_given(segmenters(toolkit, type='cps', weight=0.0), given=False)
    check_unlabeled_given(segmenters(toolkit, type='kdml_p'), given=False)


@pytest.fixture
def warnings(monkeypatch):
    told = []
    place = 'mmkd.models.distillers.preprocessing.print_log'
    monkeypatch.setattr(place, lambda message, level=0, **_: level and told.append(message))
    return told


@pytest.mark.usefixtures('unformatted_configs')
def test_padding_that_a_runner_takes_from_the_top_level_is_told(tmp_path, warnings):
    cfg = light_config(tmp_path)
    preprocessor = cfg.model.pop('data_preprocessor')
    for member in cfg.model.members.values():
        member.options['data_preprocessor'].pad_size_divisor = 6
    for divisor, given, messages in ((8, False, 1), (12, False, 0), (8, True, 0)):
        cfg.data_preprocessor = dict(preprocessor, pad_size_divisor=divisor)
        if given:
            cfg.model.data_preprocessor = cfg.data_preprocessor
        warnings.clear()
        Runner.from_cfg(cfg).build_train_loop(cfg.train_cfg)
        assert len(warnings) == messages
        for message in warnings:
            assert 'pad_size_divisor 8 in place of teacher 6, student1 6, student2 6' in message


def test_sizes_are_told_however_they_are_written(warnings):
    configs = dict(a=dict(data_preprocessor=dict(size=[64, 64])), b={})
    tell_other_padding(configs, dict(size=(64, 64)))
    tell_other_padding(configs, dict(mean=[0.0]))
    assert not warnings
    tell_other_padding(configs, dict(size=(512, 512)))
    assert 'size (512, 512) in place of a (64, 64)' in warnings[0]


class Unreadable(Data):
    """As mmdet's data sets without their annotation file."""

    def __init__(self, **_):
        open('nodata/train.json')


@pytest.mark.usefixtures('unformatted_configs')
@pytest.mark.parametrize('mode', ['train', 'val', 'unlabeled'])
def test_a_missing_file_is_told_with_its_dataloader(tmp_path, mode):
    cfg = light_config(tmp_path, unlabeled_dataloader=loader(shuffle=True))
    cfg[f'{mode}_dataloader'].dataset = dict(type=Unreadable)
    runner = Runner.from_cfg(cfg)
    message = f'^{mode}_dataloader.dataset: nodata/train.json: No such file'
    with pytest.raises(ConfigError, match=message):
        runner.build_val_loop(cfg.val_cfg) if mode == 'val' else runner.build_train_loop(
            cfg.train_cfg
        )
