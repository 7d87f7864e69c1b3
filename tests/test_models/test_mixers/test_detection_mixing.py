"""MetaMixer with detectors: at the input only."""

import copy

import pytest
import torch
from mmengine.structures import InstanceData

from mmkd.models.mixers.meta_mixer import Draw


def make(toolkit, mixer=None, **kwargs):
    kwargs.setdefault('members', toolkit.members(teacher=False))
    mixer = None if mixer is None else dict(dict(type='MetaMixer', depths=(0,)), **mixer)
    return toolkit.make_distiller(mixer=mixer, **kwargs)


def fix(model, local=False, local_lam=0.75, center=(0.5, 0.5), depth=None, lam=0.3):
    model.mixer.draw = lambda: Draw(local, local_lam, center, depth, lam, 7)


def prepared(model, toolkit, **kwargs):
    data = model.data_preprocessor(copy.deepcopy(toolkit.make_batch(**kwargs)), True)
    return data['inputs'], data['data_samples']


def set_boxes(sample, boxes, labels):
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4).float(), labels=torch.tensor(labels).long()
    )


def test_boxes_follow_the_region(toolkit):
    model = make(toolkit, dict())
    fix(model, local=True)  # the region is [16, 48) in both directions
    inputs, samples = prepared(model, toolkit, n=2)
    set_boxes(
        samples[0],
        [[20, 20, 44, 44], [0, 0, 12, 12], [8, 20, 40, 40], [40, 40, 60, 60]],
        [0, 0, 1, 1],
    )
    set_boxes(samples[1], [[30, 30, 60, 40], [50, 50, 60, 60], [40, 20, 64, 28]], [0, 2, 0])
    mix = model.mixer(inputs, samples)
    assert torch.equal(mix.inputs[0][:, 16:48, 16:48], inputs[1][:, 16:48, 16:48])
    assert torch.equal(mix.inputs[0][:, :16], inputs[0][:, :16])
    first = mix.data_samples[0].gt_instances
    # Hidden: the first, and the third by three quarters. Pasted: the first, cut at the region; the
    # others are mostly outside.
    assert first.bboxes.tolist() == [
        [0, 0, 12, 12],
        [40, 40, 60, 60],
        [30, 30, 48, 40],
    ] and first.labels.tolist() == [0, 1, 0]
    second = mix.data_samples[1].gt_instances
    assert second.bboxes.tolist() == [
        [50, 50, 60, 60],
        [40, 20, 64, 28],
        [20, 20, 44, 44],
        [16, 20, 40, 40],
    ]
    assert second.labels.tolist() == [2, 0, 0, 1]
    assert len(samples[0].gt_instances) == 4 and samples[0].gt_instances.bboxes[2, 0] == 8


def test_images_without_a_common_class_stay_as_they_are(toolkit):
    model = make(toolkit, dict())
    fix(model, local=True)
    inputs, samples = prepared(model, toolkit, n=4)
    for sample, labels in zip(samples, ([0, 1], [1], [2], [])):
        set_boxes(sample, [[8, 8, 40, 40]] * len(labels), labels)
    mix = model.mixer(inputs, samples)
    assert [not torch.equal(a, b) for a, b in zip(mix.inputs, inputs)] == [True, True, False, False]


@pytest.mark.parametrize('kind', ['yolox', 'rtmdet'])
def test_losses_are_those_of_both_ground_truths(toolkit, kind):
    config = dict(yolox=toolkit.YOLOX, rtmdet=toolkit.RTMDET)[kind]
    options = (
        toolkit.NARROW
        if kind == 'yolox'
        else {
            'data_preprocessor': dict(toolkit.PLAIN, _delete_=True),
            'backbone.widen_factor': 0.125,
            'backbone.init_cfg': None,
            'neck.in_channels': [32, 64, 128],
            'neck.out_channels': 32,
            'bbox_head.in_channels': 32,
            'bbox_head.feat_channels': 32,
            'bbox_head.num_classes': 1,
            'backbone.norm_cfg.type': 'BN',
            'neck.norm_cfg.type': 'BN',
            'bbox_head.norm_cfg.type': 'BN',
        }
    )
    members = {
        name: dict(config=config, options=options, seed=seed) for seed, name in enumerate('ab')
    }
    model = make(toolkit, dict(), members=members, links=[dict(source='a', target='b')])
    fix(model, depth=0, lam=0.3)
    inputs, samples = prepared(model, toolkit, n=4)
    mix = model.mixer(inputs, samples)
    torch.testing.assert_close(mix.inputs, 0.3 * inputs + 0.7 * inputs[mix.partners])
    alone = {name: copy.deepcopy(model.network(name)) for name in 'ab'}
    runs = []
    model.network('a').bbox_head.register_forward_hook(lambda *args: runs.append(1))
    terms = model(inputs, samples, mode='loss')
    assert len(runs) == 1 and torch.isfinite(terms['b/loss_kd[a:prediction]'])
    for name, network in alone.items():
        other = copy.deepcopy(network)
        first = network(mix.inputs, samples, mode='loss')
        second = other(mix.inputs, [samples[i] for i in mix.partners], mode='loss')
        for key in first:

            def total(value):
                return sum(value) if isinstance(value, (list, tuple)) else value

            torch.testing.assert_close(
                total(terms[f'{name}/{key}']), 0.3 * total(first[key]) + 0.7 * total(second[key])
            )
        assert total(first['loss_bbox']) != total(second['loss_bbox'])


@pytest.mark.parametrize('sharing', ['ml_p', 'kdml_mixed_complement'])
def test_it_goes_with_sharing(toolkit, sharing):
    members = toolkit.members(teacher=sharing != 'ml_p')
    model = make(toolkit, dict(global_prob=1.0, local_prob=1.0), members=members, sharing=sharing)
    wrapper = toolkit.optim_wrapper(model)
    for seed in range(3):
        log = model.train_step(toolkit.make_batch(4, seed=seed), wrapper)
        assert all(torch.isfinite(value) for value in log.values())


def test_mixing_inside_the_networks_is_refused(toolkit):
    with pytest.raises(
        ValueError,
        match=r'model.mixer: depths: DetectionTask mixes at the input only, depths=\(0, \)',
    ):
        make(toolkit, dict(depths=(0, 1)))


def test_two_stage_detectors_mix_locally_only(toolkit):
    rcnn = dict(
        config='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        options={
            'backbone.init_cfg': None,
            'backbone.depth': 18,
            'neck.in_channels': [64, 128, 256, 512],
            'roi_head.bbox_head.num_classes': 1,
        },
    )
    with pytest.raises(
        ValueError, match='model.mixer: global mixing is for one-stage detectors, got FasterRCNN'
    ):
        make(toolkit, dict(), members=dict(a=rcnn))
    make(toolkit, dict(global_prob=0.0), members=dict(a=rcnn), init=False)
