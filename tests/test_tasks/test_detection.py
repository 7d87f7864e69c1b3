"""Detection: taps of each kind of detector, members alone, ensembles through a distiller."""

import copy
from collections import Counter

import pytest
import torch
from mmengine.structures import InstanceData

from mmkd.models.distillers.member_spec import MemberSpec
from mmkd.tasks import task_of
from mmkd.utils.errors import ConfigError

RESNET = {
    'backbone.init_cfg': None,
    'backbone.depth': 18,
    'neck.in_channels': [64, 128, 256, 512],
    'neck.out_channels': 16,
}
FASTER = dict(
    config='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    options={
        **RESNET,
        'rpn_head.in_channels': 16,
        'rpn_head.feat_channels': 16,
        'roi_head.bbox_roi_extractor.out_channels': 16,
        'roi_head.bbox_head.in_channels': 16,
        'roi_head.bbox_head.fc_out_channels': 16,
        'roi_head.bbox_head.num_classes': 1,
        'test_cfg.rpn.nms_pre': 50,
        'test_cfg.rpn.max_per_img': 20,
        'train_cfg.rpn_proposal.nms_pre': 50,
        'train_cfg.rpn_proposal.max_per_img': 20,
    },
)
TRANSFORMER = {
    'backbone.init_cfg': None,
    'backbone.depth': 18,
    'encoder.num_layers': 1,
    'encoder.layer_cfg.ffn_cfg.feedforward_channels': 64,
    'decoder.num_layers': 2,
    'decoder.layer_cfg.ffn_cfg.feedforward_channels': 64,
    'bbox_head.num_classes': 1,
}
DETR = dict(
    config='mmdet::detr/detr_r50_8xb2-150e_coco.py',
    options={**TRANSFORMER, 'neck.in_channels': [512], 'num_queries': 6},
)
DINO = dict(
    config='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    options={**TRANSFORMER, 'neck.in_channels': [128, 256, 512], 'num_queries': 6},
)
DDQ = dict(
    config='mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
    options={**TRANSFORMER, 'neck.in_channels': [128, 256, 512]},
)
RTMDET_INS = dict(
    config='mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    options={
        'backbone.widen_factor': 0.125,
        'backbone.init_cfg': None,
        'backbone.norm_cfg.type': 'BN',
        'neck.in_channels': [32, 64, 128],
        'neck.out_channels': 32,
        'neck.norm_cfg.type': 'BN',
        'bbox_head.in_channels': 32,
        'bbox_head.feat_channels': 32,
        'bbox_head.norm_cfg.type': 'BN',
        'bbox_head.num_classes': 1,
        'data_preprocessor.batch_augments': None,
    },
)
RETINANET = dict(
    config='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    options={
        **RESNET,
        'bbox_head.in_channels': 16,
        'bbox_head.feat_channels': 16,
        'bbox_head.stacked_convs': 1,
        'bbox_head.num_classes': 1,
    },
)


def link(tap, **more):
    return dict(dict(source='a', target='b', tap=tap, loss=dict(type='FeatureMSE')), **more)


def pair(member):
    return dict(a=dict(member, seed=1), b=dict(member, seed=2))


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


# ---------------------------------------------------------------- taps in every kind of detector


@pytest.mark.parametrize(
    'member, tap',
    [
        (FASTER, 'feature'),
        (FASTER, 'backbone.layer3'),
        (FASTER, 'rpn_head[0]'),
        (DETR, 'feature'),
        (DETR, 'encoder'),
        (DINO, 'feature'),
        (DINO, 'encoder'),
    ],
)
def test_taps_of_two_stage_detectors_and_transformers_train(toolkit, member, tap):
    model = toolkit.make_distiller(members=pair(member), links=[link(tap)])
    terms = losses_of(model, toolkit.make_batch(size=128))
    (name,) = (key for key in terms if '[' in key)
    assert torch.isfinite(terms[name]) and terms[name] > 0
    terms[name].backward()
    assert any(p.grad is not None for p in model.network('b').backbone.parameters())
    assert all(p.grad is None for p in model.network('a').parameters())


@pytest.mark.parametrize(
    'member, tap, message',
    [
        (
            FASTER,
            'roi_head.bbox_head.fc_cls',
            "'roi_head.bbox_head.fc_cls' of 'a': FasterRCNN runs",
        ),
        (DETR, 'decoder', "'decoder' of 'a': DETR runs it on its own queries"),
        (DINO, 'decoder.layers.0', "'decoder.layers.0' of 'a': DINO runs it on its own queries"),
        (
            DINO,
            'bbox_head',
            "'bbox_head' of 'a': DINO runs .* what works: the boxes .*'encoder'",
        ),
        (
            DDQ,
            'prediction',
            "links.0..source_tap: DDQDETR has no reader for the 'prediction' tap.*what works: its",
        ),
    ],
)
def test_taps_that_cannot_be_compared_are_refused_by_name(toolkit, member, tap, message):
    with pytest.raises(ConfigError, match=message):
        toolkit.make_distiller(members=pair(member), links=[link(tap)], init=False)


def test_two_stage_detectors_with_proposals_of_another_kind_are_refused(toolkit):
    from mmdet.models.detectors import SparseRCNN

    network, task = (
        torch.nn.Module(),
        task_of(dict(a=toolkit.make_distiller(init=False).network('student1'))),
    )
    network.__class__ = SparseRCNN
    network.roi_head = torch.nn.Identity()
    with pytest.raises(
        ConfigError,
        match="x: SparseRCNN has no proposals for the 'prediction' tap .*what works: its",
    ):
        task.resolve_tap('prediction', network, 'x')


@pytest.mark.parametrize(
    'config, message',
    [
        ('htc/htc_r50_fpn_1x_coco.py', 'HybridTaskCascadeRoIHead of HybridTaskCascade needs more'),
        ('scnet/scnet_r50_fpn_1x_coco.py', 'SCNetRoIHead of SCNet needs more'),
        (
            'cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py',
            'CascadeRPNHead of FasterRCNN needs more',
        ),
        ('tridentnet/tridentnet_r50-caffe_1x_coco.py', "with training='frozen' alone"),
    ],
)
def test_second_stages_that_read_more_than_the_neck_are_refused(config, message):
    """They failed in the first step, or were read without what their own predictions have."""
    options = {'backbone.init_cfg': None}
    network = MemberSpec('a', config=f'mmdet::{config}', options=options).build(0)
    task = task_of(dict(a=network))
    with pytest.raises(ConfigError, match=f'^x: .*{message}'):
        task.resolve_tap('prediction', network, 'x')
    network.requires_grad_(False)
    if 'trident' in config:
        task.resolve_tap('prediction', network, 'x')


def test_an_ssd_predicts(toolkit):
    """MMDetection 3.5 asks its head for a loss that it has not."""
    from mmkd.apis.detector_pairs import DETECTORS

    config, options = DETECTORS['SSD']
    network, _ = built(toolkit, dict(config=f'mmdet::{config}', options=options))
    batch = network.data_preprocessor(toolkit.make_batch(size=64), False)
    with torch.no_grad():
        found = network.eval()(**batch, mode='predict')
    assert len(found) == len(batch['data_samples'])


def built(toolkit, member):
    """A member's network and its task."""
    model = toolkit.make_distiller(members=dict(a=member))
    return model.network('a'), model.task


@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize(
    'kind, paths',
    [
        ('faster', ['neck', 'rpn_head']),
        ('detr', ['neck', 'encoder']),
        ('dino', ['encoder']),
        ('yolox', ['neck', 'bbox_head']),
        ('rtmdet_ins', ['bbox_head']),
        ('retinanet', ['bbox_head', 'backbone.layer2']),
    ],
)
def test_unlabeled_images_run_through_the_tapped_modules_with_gradients(toolkit, kind, paths, mode):
    members = dict(
        faster=FASTER,
        detr=DETR,
        dino=DINO,
        yolox=toolkit.yolox(),
        rtmdet_ins=RTMDET_INS,
        retinanet=RETINANET,
    )
    network, task = built(toolkit, members[kind])
    outputs = {}
    for path in paths:
        network.get_submodule(path).register_forward_hook(
            lambda m, a, out, path=path: outputs.setdefault(path, []).append(out)
        )
    network.train(mode == 'train')
    task.run_for_taps(network, torch.rand(2, 3, 96, 128), None, paths)
    assert {path: len(runs) for path, runs in outputs.items()} == dict.fromkeys(paths, 1)
    value = outputs[paths[0]][0]
    while isinstance(value, (list, tuple)):
        value = value[0]
    value.sum().backward()
    assert any(p.grad is not None for p in network.backbone.parameters())


def test_pyramids_of_two_families_are_linked_by_stride(toolkit, caplog):
    """YOLOX has strides 8 to 32, RetinaNet 8 to 128, Faster R-CNN 4 to 64."""
    members = dict(a=toolkit.yolox(), b=RETINANET, c=FASTER)
    both = dict(tap='feature', name='x')
    model = toolkit.make_distiller(
        members=members,
        links=[
            dict(both, source='a', target='b'),
            dict(both, source='c', target='b'),
            dict(both, source=['b', 'c'], target='a', combine='MeanLogits', name='y'),
        ],
        init=False,
    )
    rows = [[(0, 0), (1, 1), (2, 2)], [(0, 1), (1, 2), (2, 3), (3, 4)]]
    rows.append([(0, 0, 1), (1, 1, 2), (2, 2, 3)])
    assert [link.rows for link in model.links] == rows
    # Channels alone are brought together: no map is resized.
    assert [type(c).__name__ for c in next(iter(model.links)).connectors] == ['ConvConnector'] * 3
    terms = losses_of(model, toolkit.make_batch(size=96))
    assert all(terms[key] > 0 for key in terms if '/loss_' in key and '[' in key)


def test_a_heads_lists_of_levels_are_taken_one_by_one(toolkit):
    members = pair(toolkit.yolox())
    with pytest.raises(
        ConfigError, match=r"links.0.: a tap gives lists of lists; .*'bbox_head.0.'"
    ):
        toolkit.make_distiller(members=members, links=[link('bbox_head')], init=False)
    links = [link('bbox_head[1]'), dict(source='a', target='b', tap='feature[0]')]
    model = toolkit.make_distiller(members=members, links=links)
    terms = losses_of(model, toolkit.make_batch())
    found = {tap: terms[f'b/loss_kd[a:{tap}]'].item() for tap in ('bbox_head[1]', 'feature[0]')}
    assert all(value > 0 for value in found.values()), found


def test_a_member_that_cannot_run_is_named(toolkit):
    broken = dict(RETINANET['options'], **{'neck.in_channels': [64, 128, 256, 400]})
    members = dict(a=dict(RETINANET, options=broken), b=RETINANET)
    with pytest.raises(ConfigError, match=r'model.members.a: .*expected input.*400 channels'):
        toolkit.make_distiller(members=members, links=[link('feature')], init=False)


def test_a_network_that_cannot_run_without_losses_is_named(toolkit):
    network, task = built(toolkit, toolkit.yolox())

    def broken(*args, **kwargs):
        raise TypeError('needs texts')

    network._forward = broken
    with pytest.raises(
        ConfigError,
        match=r"taps at mask_head.conv of 'a': YOLOX cannot run without losses .TypeError: needs "
        'texts.; what works: taps in the backbone and the neck',
    ):
        task.run_for_taps(network, torch.rand(1, 3, 64, 64), None, ['mask_head.conv'])


# ---------------------------------------------------------------- predictions


@pytest.mark.parametrize('kind', ['yolox', 'rtmdet_ins', 'retinanet', 'faster', 'dino'])
def test_identical_members_have_a_prediction_link_of_zero(toolkit, kind):
    member = dict(
        yolox=toolkit.yolox(),
        rtmdet_ins=RTMDET_INS,
        retinanet=RETINANET,
        faster=FASTER,
        dino=DINO,
    )[kind]
    model = toolkit.make_distiller(
        members=pair(member), links=[dict(source='a', target='b')], data_preprocessor=toolkit.PLAIN
    )
    batch = toolkit.make_batch()
    if kind == 'rtmdet_ins':
        with_masks(batch)
    key = 'b/loss_kd[a:prediction]'
    assert losses_of(model, batch)[key] > 1e-6
    model.network('b').load_state_dict(model.network('a').state_dict())
    assert losses_of(model, batch)[key].abs() < 1e-5


@pytest.mark.parametrize('source, target', [('faster', 'faster'), ('faster', 'dino')])
def test_a_prediction_link_reaches_the_target_and_nothing_flows_into_its_source(
    toolkit, source, target
):
    kinds = dict(faster=FASTER, dino=DINO)
    members = dict(a=dict(kinds[source], seed=1), b=dict(kinds[target], seed=2))
    loss = dict(type='DetectionLoss', score_thr=0.0, max_per_img=2)
    model = toolkit.make_distiller(members=members, links=[dict(source='a', target='b', loss=loss)])
    term = losses_of(model, toolkit.make_batch(size=96))['b/loss_kd[a:prediction]']
    assert term.isfinite() and term > 0
    term.backward()
    assert all(p.grad is None for p in model.network('a').parameters())
    learning = {
        name.split('.')[0]
        for name, p in model.network('b').named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert {'backbone', 'neck'} < learning
    assert learning & {'roi_head', 'bbox_head'}


def test_an_rpn_runs_once_more_for_all_links_of_a_step(toolkit):
    """Once in its own detector, once for the links: proposals, anchors, boxes as a truth."""
    boxes = dict(type='DetectionLoss', score_thr=0.0, max_per_img=2)
    members = dict(a=dict(FASTER, seed=1), b=dict(FASTER, seed=2), c=RETINANET)
    links = [dict(source='a', target='b'), dict(source='a', target='c', loss=boxes)]
    model = toolkit.make_distiller(members=members, links=links)
    runs = Counter()
    for name in 'ab':
        rpn = model.network(name).rpn_head
        rpn.register_forward_hook(lambda *_, name=name: runs.update([name]))
    losses_of(model, toolkit.make_batch(size=96))
    assert runs == dict(a=2, b=2)


def test_rpns_learn_from_each_other_whether_anchors_hold_objects(toolkit):
    """Not the boxes of anchors: nearly all lie where the source is sure of nothing."""
    members = dict(a=dict(FASTER, seed=1), b=dict(FASTER, seed=2))
    model = toolkit.make_distiller(members=members, links=[dict(source='a', target='b')])
    losses_of(model, toolkit.make_batch(size=96))['b/loss_kd[a:prediction]'].backward()
    rpn = model.network('b').rpn_head
    assert rpn.rpn_cls.weight.grad.abs().sum() > 0
    assert not rpn.rpn_reg.weight.grad.any()
    assert all(p.grad is None for p in model.network('a').parameters())


def test_the_draws_of_a_second_truth_do_not_move_the_random_stream(toolkit):
    """A second stage draws the boxes that it learns from."""
    loss = dict(type='DetectionLoss', score_thr=0.0, max_per_img=2)
    links = [dict(source='a', target='b', loss=loss)]
    members = dict(a=RETINANET, b=FASTER)
    model = toolkit.make_distiller(members=members, links=links)
    model.progress, batch = 0.5, toolkit.make_batch(size=96)
    state = torch.get_rng_state()
    streams = [copy.deepcopy(spec.stream.state_dict()) for spec in model.specs.values()]
    first = losses_of(model, batch)
    assert torch.get_rng_state().equal(state)
    for spec, stream in zip(model.specs.values(), streams):
        spec.stream.load_state_dict(stream)
    key = 'b/loss_kd[a:prediction]'
    assert losses_of(model, batch)[key].equal(first[key])


def test_boxes_teach_on_unlabeled_images(toolkit):
    """What is known of an image goes along; its ground truth does not."""
    model = toolkit.make_distiller(
        members=dict(a=toolkit.yolox(), b=RETINANET),
        sharing=dict(
            type='cps', prediction=dict(type='DetectionLoss', score_thr=0.0, max_per_img=2)
        ),
    )
    unlabeled = toolkit.make_batch(seed=1)
    for sample in unlabeled['data_samples']:
        del sample.gt_instances
    labeled = model.data_preprocessor(toolkit.make_batch(), True)
    terms = model(**labeled, mode='loss', unlabeled=model.data_preprocessor(unlabeled, True))
    linked = {key: value for key, value in terms.items() if '/loss_' in key and '[' in key}
    assert len(linked) == 2 and all(value > 0 for value in linked.values())


def test_a_loss_of_tensors_is_told_which_one_detectors_take(toolkit):
    message = "PseudoLabel cannot take such predictions, DetectionLoss .* can: .*no attribute 'dim'"
    with pytest.raises(ConfigError, match=message):
        toolkit.make_distiller(sharing=dict(type='cps', prediction=dict(type='PseudoLabel')))


def with_masks(batch):
    """Give each box of a batch a mask."""
    from mmdet.structures.mask import BitmapMasks

    for image, sample in zip(batch['inputs'], batch['data_samples']):
        masks = torch.zeros(len(sample.gt_instances), *image.shape[1:], dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, sample.gt_instances.bboxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), *image.shape[1:])
    return batch


@pytest.mark.parametrize('members', [('a',), ('a', 'b')])
def test_the_ensembles_boxes_beside_the_members(toolkit, members):
    """One member's are that member's, over the image's border too."""
    networks = {name: toolkit.yolox(seed=i) for i, name in enumerate('ab')}
    ensemble = dict(members=list(members), score_thr=0.0)
    model = toolkit.make_distiller(members=networks, ensemble=ensemble).eval()
    for name in 'ab':
        network = model.network(name)
        network.test_cfg.score_thr = network.bbox_head.test_cfg.score_thr = 0.0
        for conv in network.bbox_head.multi_level_conv_reg:
            conv.bias.data[2:] = 1.5  # boxes of 4.5 strides
    results = model.predict_members(toolkit.make_batch())
    for index in range(2):
        own = [results[name][index].pred_instances for name in members]
        fused = results['ensemble'][index].pred_instances
        assert min(p.bboxes.min() for p in own) < -4
        if len(own) == 1:
            assert fused.bboxes.equal(own[0].bboxes) and fused.scores.equal(own[0].scores)
            assert fused.labels.equal(own[0].labels)
        else:
            assert fused.bboxes.min() < -4 and len(fused)


def test_a_second_stage_reads_channels_last_maps(toolkit, plain_operators):
    """It read them as maps of another order, and learned nothing."""
    model = toolkit.make_distiller(members=dict(a=FASTER), channels_last=True).eval()
    network, images = model.network('a'), torch.randn(2, 3, 96, 96)
    maps = network.extract_feat(images.contiguous(memory_format=torch.channels_last))[:4]
    assert not maps[0].is_contiguous()
    align = network.roi_head.bbox_roi_extractor
    boxes = torch.tensor([[0, 4.0, 4, 40, 50], [1, 9, 2, 90, 70]])
    torch.testing.assert_close(align(maps, boxes), align([m.contiguous() for m in maps], boxes))


def test_members_of_other_classes_cannot_be_fused(toolkit):
    members = dict(a=toolkit.yolox(), b=copy.deepcopy(FASTER))
    members['b']['options']['roi_head.bbox_head.num_classes'] = 2
    with pytest.raises(ConfigError, match="members differ in classes: {'a': 1, 'b': 2}"):
        toolkit.make_distiller(members=members, init=False)


def test_a_copy_of_a_distiller_shares_its_task(toolkit):
    """mmengine's EMAHook makes a copy: a task's networks would be copied once more with it."""
    model = toolkit.make_distiller(members=dict(a=toolkit.yolox()))
    assert copy.deepcopy(model).task is model.task
    assert task_of(model.task.networks).fits(model.network('a'))


def test_boxes_of_another_network_in_the_samples_are_left_alone(toolkit):
    """`run_for_taps` only makes samples up where it gets none."""
    network, task = built(toolkit, DETR)
    data = toolkit.make_batch(size=96)
    sample = data['data_samples'][0]
    sample.set_metainfo(dict(batch_input_shape=(96, 96), pad_shape=(96, 96)))
    sample.proposals = InstanceData(bboxes=torch.ones(3, 4))
    task.run_for_taps(network, torch.rand(1, 3, 96, 96), [sample], ['encoder'])
    assert sample.proposals.bboxes.equal(torch.ones(3, 4)) and len(sample.gt_instances) == 1


def test_unlabeled_samples_without_ground_truth_run_through_denoising(toolkit):
    """A loader of unlabeled images gives samples; DINO makes queries of their ground truth."""
    network, task = built(toolkit, DINO)
    sample = toolkit.make_batch(size=96)['data_samples'][0]
    sample.set_metainfo(dict(batch_input_shape=(96, 96), pad_shape=(96, 96)))
    del sample.gt_instances
    seen = []
    network.encoder.register_forward_hook(lambda module, args, output: seen.append(output))
    task.run_for_taps(network.train(), torch.rand(1, 3, 96, 96), [sample], ['encoder'])
    assert len(seen) == 1 and 'gt_instances' not in sample


def test_boxes_as_a_truth_leave_the_gradient_of_other_links_alone(toolkit):
    """Also with `detach=False`: boxes are made without gradient, and kept by themselves."""
    boxes = dict(type='DetectionLoss', score_thr=0.0, max_per_img=2)
    members = dict(a=dict(FASTER, seed=1), b=dict(FASTER, seed=2), c=RETINANET)
    links = [
        dict(source='a', target='c', loss=boxes, detach=False),
        dict(source='b', target='a'),
    ]
    model = toolkit.make_distiller(members=members, links=links)
    losses_of(model, toolkit.make_batch(size=96))['a/loss_kd[b:prediction]'].backward()
    assert model.network('a').roi_head.bbox_head.fc_cls.weight.grad.any()


@pytest.mark.parametrize('on', ['labeled', 'unlabeled'])
@pytest.mark.parametrize('source', ['faster', 'retinanet'])
def test_a_second_stage_runs_for_links_without_a_trace(toolkit, on, source):
    """In the mode of its step: that of a source on the weak view is eval mode."""
    head = dict(
        type='Shared4Conv1FCBBoxHead', norm_cfg=dict(type='BN'), conv_out_channels=16, num_classes=1
    )
    options = {f'roi_head.bbox_head.{key}': value for key, value in head.items()}
    faster = dict(FASTER, options={**FASTER['options'], **options})
    boxes = dict(type='DetectionLoss', score_thr=0.0, max_per_img=2)
    model = toolkit.make_distiller(
        members=dict(a=faster if source == 'faster' else RETINANET, b=faster),
        links=[dict(source='a', target='b', loss=boxes, on=on)],
    )
    seen = []

    def note(name, module):
        seen.append((name, module.training, module.track_running_stats))

    for name in 'ab' if source == 'faster' else 'b':
        for module in model.network(name).roi_head.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.register_forward_pre_hook(lambda m, _, name=name: note(name, m))
                break
    batch, unlabeled = (toolkit.make_batch(size=96, seed=seed) for seed in (0, 1))
    data = model.data_preprocessor(dict(batch, unlabeled=unlabeled), True)
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    assert losses['b'].isfinite()
    own, again = ('a', True, True), ('a', on == 'labeled', False)
    if source == 'faster':
        assert Counter(seen)[own] == 1 and set(seen) >= {own, again}
    assert Counter(seen)['b', True, True] == 1 and ('b', True, False) in seen
    assert len(set(seen)) == (4 if source == 'faster' else 2)
    assert all(m.training for m in model.network('b').roi_head.modules())
