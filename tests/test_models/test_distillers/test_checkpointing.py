"""Gradient checkpointing in members: equal gradients, taps read once, refused without gradient."""

import copy

import pytest
import torch
from mmengine.runner import turn_on_activation_checkpointing
from torch.utils.checkpoint import checkpoint

FCOS = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'


def fcos(with_cp, **kwargs):
    """A ResNet whose blocks know `with_cp`; group norm, as recomputing moves a batch norm twice."""
    options = {
        'backbone.depth': 18,
        'backbone.base_channels': 8,
        'backbone.stem_channels': 8,
        'backbone.init_cfg': None,
        'backbone.norm_cfg': dict(type='GN', num_groups=2, _delete_=True),
        'backbone.norm_eval': False,
        'backbone.frozen_stages': -1,
        'backbone.with_cp': with_cp,
        'neck.in_channels': [8, 16, 32, 64],
        'neck.out_channels': 32,
        'bbox_head.in_channels': 32,
        'bbox_head.feat_channels': 32,
        'bbox_head.stacked_convs': 1,
        'bbox_head.num_classes': 1,
    }
    return dict(dict(config=FCOS, options=options), **kwargs)


def gradients(toolkit, model):
    model.progress = 0.5
    losses, _ = model.parse_losses(
        model(**model.data_preprocessor(toolkit.make_batch(), True), mode='loss')
    )
    sum(losses.values()).backward()
    assert not any(
        tap.recorder.outputs for tap in model.members.taps.values()
    )  # nothing recorded while recomputing
    return {name: p.grad for name, p in model.named_parameters()}


def pair(toolkit, with_cp, tap):
    members = {name: fcos(with_cp, seed=i) for i, name in enumerate(('a', 'b'))}
    links = [
        dict(source=s, target=t, tap=tap, loss=dict(type='FeatureMSE'))
        for s, t in (('a', 'b'), ('b', 'a'))
    ]
    return toolkit.make_distiller(members=members, links=links)


@pytest.mark.parametrize('tap', ['backbone.layer4', 'backbone.layer3.1'])
def test_blocks_with_cp_give_the_same_gradients(toolkit, tap):
    plain, saving = (gradients(toolkit, pair(toolkit, with_cp, tap)) for with_cp in (False, True))
    assert any(grad is not None and grad.abs().sum() > 0 for grad in plain.values())
    for name, grad in plain.items():
        torch.testing.assert_close(saving[name], grad, msg=name)


def test_a_module_that_mmengine_checkpoints_can_be_tapped(toolkit):
    plain, saving = (pair(toolkit, False, 'backbone.layer4') for _ in range(2))
    turn_on_activation_checkpointing(saving, [f'members.{name}.backbone.layer4' for name in 'ab'])
    one, other = gradients(toolkit, plain), gradients(toolkit, saving)
    for name, grad in one.items():
        torch.testing.assert_close(other[name], grad, msg=name)


def test_a_tap_inside_a_reentrant_checkpoint_is_refused(toolkit):
    """Its first pass builds no graph: the link would teach nothing, silently."""
    with pytest.raises(
        ValueError,
        match=r"links\[0\].target_tap: 'backbone.layer4.1.conv2' of 'b' has no gradient.*with_cp",
    ):
        gradients(toolkit, pair(toolkit, True, 'backbone.layer4.1.conv2'))


def test_a_tap_inside_a_non_reentrant_checkpoint_teaches(toolkit):
    def saving(model):
        for name in 'ab':
            layer = model.members[name].backbone.layer4
            layer.forward = lambda x, run=layer.forward: checkpoint(run, x, use_reentrant=False)
        return model

    tap = 'backbone.layer4.1.conv2'
    one, other = (
        gradients(toolkit, pair(toolkit, False, tap)),
        gradients(toolkit, saving(pair(toolkit, False, tap))),
    )
    for name, grad in one.items():
        torch.testing.assert_close(other[name], grad, msg=name)


def test_a_member_that_is_checkpointed_takes_the_same_step_with_fewer_activations(toolkit):
    """Batch norms move once; dropout draws the same again; a copy calls its own layers."""
    results = {}
    for saving in (False, True):
        members = toolkit.members(students=1)
        members['student1']['checkpointing'] = saving
        model = toolkit.make_distiller(members=members, sharing='kd_f')
        student = model.network('student1')
        student.backbone.stage2.add_module('noise', torch.nn.Dropout(0.2))
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            found = gradients(toolkit, model)
        results[saving] = found, dict(model.named_buffers()), len(kept)
        twin = copy.deepcopy(student)
        twin.requires_grad_(False).backbone.stem.conv.conv.weight.zero_()
        assert student.backbone.stem.conv.conv.weight.any()
        image = torch.rand(2, 3, 64, 64).requires_grad_()
        assert not twin.eval().backbone(image)[0].equal(student.eval().backbone(image)[0])
    (plain, buffers, many), (saved, own, few) = results[False], results[True]
    for name, grad in plain.items():
        torch.testing.assert_close(saved[name], grad, msg=name)
    for name, buffer in buffers.items():
        assert own[name].equal(buffer), name
    assert few < 0.85 * many


@pytest.mark.parametrize(
    'link, optimizer',
    [
        (dict(weight=dict(type='GradientShare', interval=1)), dict(type='SGD', lr=0.01)),
        (dict(guard='project'), dict(type='SGD', lr=0.01)),
        ({}, dict(type='mmkd.DistillationOrientedSGD', lr=0.01)),
    ],
    ids=['GradientShare', 'project', 'DOT'],
)
def test_a_checkpointed_part_goes_backward_twice(toolkit, link, optimizer):
    """For what measures or splits gradients: each time it computes its activations again."""
    link = dict(source='teacher', target='student1', tap='backbone.stage2', **link)
    results = []
    for saving in (False, True):
        members = toolkit.members(students=1)
        members['student1']['checkpointing'] = saving
        model = toolkit.make_distiller(
            members=members, links=[dict(link, loss=dict(type='PearsonFeature'))]
        )
        wrapper = toolkit.optim_wrapper(model, optimizer=optimizer)
        model.progress = 0.5
        for seed in range(2):
            model.train_step(toolkit.make_batch(seed=seed), wrapper)
        results.append(model.network('student1').state_dict())
    plain, saved = results
    for name, value in plain.items():
        torch.testing.assert_close(saved[name], value, msg=name)
