"""MetaMixer with segmenters."""

import copy
import itertools

import mixing
import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.registry import DefaultScope  # noqa: E402

from mmkd.models.mixers.meta_mixer import Draw  # noqa: E402

COUNTER = itertools.count()


@pytest.fixture(autouse=True)
def mmseg_scope(fresh_state):
    DefaultScope.get_instance(f'mixer-seg-{next(COUNTER)}', scope_name='mmseg')


def make(toolkit, mixer=None, members=None, **kwargs):
    members = members or dict(student1=mixing.unet(1), student2=mixing.unet(2))
    kwargs.setdefault('data_preprocessor', dict(mixing.SEG, _scope_='mmseg'))
    return toolkit.make_distiller(
        members=members, mixer=None if mixer is None else dict(type='MetaMixer', **mixer), **kwargs
    )


def fix(model, local=False, local_lam=0.75, center=(0.25, 0.5), depth=None, lam=0.3):
    model.mixer.draw = lambda: Draw(local, local_lam, center, depth, lam, 7)


def prepared(model, **kwargs):
    data = model.data_preprocessor(mixing.label_maps(**kwargs), True)
    return data['inputs'], data['data_samples']


def test_label_maps_follow_the_box(toolkit):
    model = make(toolkit, dict())
    fix(model, local=True)
    inputs, samples = prepared(model)
    only = samples[3].gt_sem_seg.data
    only.zero_()  # an image of other classes: without partner
    kept = [sample.gt_sem_seg.data.clone() for sample in samples]
    mix = model.mixer(inputs, samples)
    box = torch.zeros(64, 64, dtype=torch.bool)
    box[0:32, 16:48] = True
    for i in range(3):
        donors = [j for j in range(4) if torch.equal(mix.inputs[i][:, box], inputs[j][:, box])]
        assert len(donors) == 1 and donors[0] not in (i, 3)
        labels = mix.data_samples[i].gt_sem_seg.data
        assert torch.equal(labels[:, box], kept[donors[0]][:, box]) and torch.equal(
            labels[:, ~box], kept[i][:, ~box]
        )
        assert torch.equal(samples[i].gt_sem_seg.data, kept[i])
    assert torch.equal(mix.inputs[3], inputs[3]) and torch.equal(
        mix.data_samples[3].gt_sem_seg.data, kept[3]
    )


def test_nothing_is_pasted_from_padding_or_onto_it(toolkit):
    model = make(toolkit, dict())
    fix(model, local=True, local_lam=0.0)  # the box is the whole common part
    batch = mixing.label_maps(n=2, size=64)
    batch['inputs'][1] = batch['inputs'][1][:, :40, :48]
    batch['data_samples'][1].set_metainfo(dict(img_shape=(40, 48)))
    data_ = batch['data_samples'][1].gt_sem_seg.data
    batch['data_samples'][1].gt_sem_seg = type(batch['data_samples'][1].gt_sem_seg)(
        data=data_[:, :40, :48]
    )
    data = model.data_preprocessor(batch, True)
    fix(model, local=True, local_lam=0.0, center=(0.5, 0.5))
    mix = model.mixer(data['inputs'], data['data_samples'])
    one, two = (sample.gt_sem_seg.data for sample in mix.data_samples)
    assert (
        torch.equal(mix.inputs[0][:, :40, :48], data['inputs'][1][:, :40, :48]) and 255 not in one
    )
    assert torch.equal(mix.inputs[0][:, 40:], data['inputs'][0][:, 40:])
    assert (
        (two[:, 40:] == 255).all() and (two[:, :, 48:] == 255).all() and 255 not in two[:, :40, :48]
    )
    fix(model, depth=0)
    mix = model.mixer(data['inputs'], data['data_samples'])
    assert [tuple(sample.img_shape) for sample in mix.data_samples] == [
        (64, 64)
    ] * 2  # content everywhere
    assert tuple(data['data_samples'][1].img_shape) == (40, 48)


def by_hand(network, depth, blend, inputs):
    """Logits of decode head and auxiliary head of a mixed forward pass, computed stage by stage."""
    backbone, x, outputs = network.backbone, blend(inputs) if depth == 0 else inputs, []
    if hasattr(backbone, 'encoder'):
        for k, stage in enumerate(backbone.encoder, 1):
            x = stage(x)
            x = blend(x) if k == depth else x
            outputs.append(x)
        decoded = [x]
        for i in reversed(range(len(backbone.decoder))):
            x = backbone.decoder[i](outputs[i], x)
            decoded.append(x)
        return network.decode_head.forward(decoded), network.auxiliary_head.forward(decoded)
    for k, (embed, blocks, norm) in enumerate(backbone.layers, 1):
        x, shape = embed(x)
        for block in blocks:
            x = block(x, shape)
        x = norm(x).transpose(1, 2).reshape(len(inputs), -1, *shape)
        x = blend(x) if k == depth else x
        outputs.append(x)
    return network.decode_head.forward(outputs), None


@pytest.mark.parametrize(
    'build, depth', [(mixing.unet, k) for k in range(4)] + [(mixing.segformer, k) for k in range(5)]
)
def test_mixing_equals_a_computation_by_hand(toolkit, build, depth):
    """U-Net's skips and all levels of the SegFormer see the mixed maps, losses both label maps."""
    model = make(toolkit, dict(depths=(depth,)), members=dict(a=build(1), b=build(2))).double()
    fix(model, depth=depth)
    inputs, samples = prepared(model, ignored=True)
    inputs = inputs.double()
    alone = {name: copy.deepcopy(model.network(name)) for name in 'ab'}
    partners = model.mixer(inputs, samples).partners
    terms = model(inputs, samples, mode='loss')
    for name, network in alone.items():
        logits = by_hand(network, depth, lambda x: 0.3 * x + 0.7 * x[partners], inputs)
        for head, key, values in zip(('decode_head', 'auxiliary_head'), ('decode', 'aux'), logits):
            if values is None:
                continue
            own = getattr(network, head).loss_by_feat(values, samples)
            other = getattr(network, head).loss_by_feat(values, [samples[i] for i in partners])
            assert own['loss_ce'] != other['loss_ce']
            torch.testing.assert_close(
                terms[f'{name}/{key}.loss_ce'], 0.3 * own['loss_ce'] + 0.7 * other['loss_ce']
            )
            torch.testing.assert_close(terms[f'{name}/{key}.acc_seg'], own['acc_seg'])


def test_links_count_positions_valid_in_both_label_maps(toolkit):
    link = dict(source='student1', target='student2', loss=dict(type='SpyLoss'))
    with mixing.spy_loss() as seen:
        model = make(toolkit, dict(depths=(1,)), links=[link])
        fix(model, depth=1)
        inputs, samples = prepared(model, ignored=True)
        partners = model.mixer(inputs, samples).partners
        seen.clear()
        model(inputs, samples, mode='loss')
    ((_, _, mask),) = seen
    own = torch.stack([sample.gt_sem_seg.data != 255 for sample in samples])
    assert torch.equal(mask > 0, own & own[partners])
    assert set(mask.unique().tolist()) == {0.0, 1.0} and mask.mean() < own.float().mean()


@pytest.mark.parametrize('sharing', ['ml_p', 'kdml_mixed_complement', 'kdml_mixed_full'])
def test_it_goes_with_sharing_and_unlike_networks(toolkit, sharing):
    members = dict(teacher=mixing.segformer(3), student1=mixing.unet(1), student2=mixing.unet(2))
    model = make(toolkit, dict(global_prob=1.0), members=members, sharing=sharing)
    wrapper = toolkit.optim_wrapper(model)
    depths = set()
    for seed in range(6):
        draw = copy.deepcopy(model.mixer).draw()
        depths.add(draw.depth)
        log = model.train_step(mixing.label_maps(seed=seed), wrapper)
        assert all(torch.isfinite(value) for value in log.values())
    assert len(depths) > 2


def test_soft_labels_and_heads_without_such_a_loss_are_refused(toolkit):
    with pytest.raises(
        ValueError, match="model.mixer: labels: 'soft' is for classification, got EncoderDecoder"
    ):
        make(toolkit, dict(labels='soft'))
    with pytest.raises(
        ValueError,
        match="depths: 4 is out of range for 'student1', which has 3 stages: backbone.encoder.0",
    ):
        make(toolkit, dict(depths=(0, 4)))
