"""Values of the losses of relations and distributions against computations in float64."""

import numpy as np
import pytest
import torch
from scipy import special

from mmkd.models.losses import (
    DIST,
    AttentionTransfer,
    FitNets,
    HierarchicalContext,
    NeuronSelectivity,
    RelationalKD,
    SimilarityPreserving,
    hierarchical_context,
)
from mmkd.models.utils import mask as mask_module


def sides(shape, other=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator), torch.randn(
        other or shape, generator=generator
    ) + 0.3


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def flat(x):
    return x.flatten(1).double().numpy()


@pytest.mark.parametrize('power', [1.0, 2.0])
@pytest.mark.parametrize('channels', [3, 5])
def test_attention_transfer(power, channels):
    target, source = sides((2, 3, 4, 5), (2, channels, 4, 5))
    q_t, q_s = (unit(flat(x.abs().double().pow(power).mean(1))) for x in (target, source))
    value = AttentionTransfer(power)(target, source)
    assert value.item() == pytest.approx(np.mean(((q_t - q_s) ** 2).sum(1)), rel=1e-4)
    small = AttentionTransfer(power)(target, torch.nn.functional.avg_pool2d(source, 2))
    assert small.isfinite()  # the target is brought to the source's size


@pytest.mark.parametrize('shape, other', [((4, 3), (4, 6)), ((4, 3, 2, 2), (4, 2, 3, 3))])
def test_similarity_preserving(shape, other):
    target, source = sides(shape, other)
    g_t, g_s = (unit(flat(x) @ flat(x).T) for x in (target, source))
    value = SimilarityPreserving()(target, source)
    assert value.item() == pytest.approx(((g_t - g_s) ** 2).sum() / 4, rel=1e-4)


def huber(x, y):
    d = np.abs(x - y)
    return np.where(d < 1, d**2 / 2, d - 0.5).mean()


def relations(x):
    n = len(x)
    distances = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
    angles = np.zeros((n, n, n))
    for i, j, k in np.ndindex(n, n, n):
        a, b = x[i] - x[j], x[k] - x[j]
        if i != j and k != j:
            angles[j, i, k] = a @ b / np.sqrt((a @ a) * (b @ b))
    return distances / distances[distances > 0].mean(), angles


@pytest.mark.parametrize('weights', [(1.0, 2.0), (25.0, 0.0)])
def test_relational(weights):
    target, source = sides((5, 3), (5, 4))
    (d_t, a_t), (d_s, a_s) = (relations(flat(x)) for x in (target, source))
    value = RelationalKD(*weights)(target, source)
    expected = weights[0] * huber(d_t, d_s) + weights[1] * huber(a_t, a_s)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    maps = source[..., None, None].expand(5, 4, 2, 3)  # with the vectors as means
    torch.testing.assert_close(RelationalKD(*weights)(target, maps), value)


def test_relations_of_one_image_or_of_equal_images_are_none():
    for loss in (RelationalKD(), SimilarityPreserving()):
        target, source = sides((1, 3))
        target.requires_grad_()
        value = loss(target, source)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-6) and target.grad.isfinite().all()
    target = torch.ones(3, 4, requires_grad=True)
    RelationalKD()(target, sides((3, 4))[1]).backward()
    assert target.grad.isfinite().all()


@pytest.mark.parametrize('channels', [3, 5])
def test_neuron_selectivity(channels):
    target, source = sides((2, 3, 2, 4), (2, channels, 2, 4))
    values = []
    for t, s in zip(target.flatten(2).double().numpy(), source.flatten(2).double().numpy()):
        t, s = unit(t), unit(s)

        def kernel(a, b):
            return np.mean([[(x @ y) ** 2 for y in b] for x in a])

        values.append(kernel(t, t) + kernel(s, s) - 2 * kernel(t, s))
    value = NeuronSelectivity()(target, source)
    assert value.item() == pytest.approx(np.mean(values), rel=1e-4)


@pytest.mark.parametrize('shape', [(5, 4), (2, 3, 4, 4), (5, 2), (2, 1, 4, 4)])
@pytest.mark.parametrize('options', [dict(), dict(inter_weight=2, intra_weight=0.5, tau=4.0)])
def test_dist(shape, options):
    target, source = sides(shape)
    inter, intra, tau = (
        options.get('inter_weight', 1),
        options.get('intra_weight', 1),
        options.get('tau', 1.0),
    )
    p = []
    for x in (target, source):
        rows = x.movedim(1, -1).flatten(0, -2).double().numpy() / tau
        p.append(special.expit(rows) if shape[1] == 1 else special.softmax(rows, 1))
    expected = intra * np.mean([1 - np.corrcoef(t, s)[0, 1] for t, s in zip(p[0].T, p[1].T)])
    if shape[1] > 2:
        expected += inter * np.mean([1 - np.corrcoef(t, s)[0, 1] for t, s in zip(*p)])
    assert DIST(**options)(target, source).item() == pytest.approx(tau**2 * expected, rel=1e-3)


def test_dist_of_one_image_has_the_classes_alone():
    target, source = sides((1, 4))
    p = [special.softmax(x.double().numpy()[0]) for x in (target, source)]
    assert DIST()(target, source).item() == pytest.approx(1 - np.corrcoef(*p)[0, 1], rel=1e-3)


def test_hierarchical_context():
    target, source = sides((2, 3, 8, 8))
    d = (target - source).double()

    def pooled(k):
        return d.unflatten(3, (k, 8 // k)).unflatten(2, (k, 8 // k)).mean((3, 5))

    terms = [d.square().mean(), *(pooled(k).square().mean() for k in (4, 2, 1))]
    expected = sum(t * 0.5**i for i, t in enumerate(terms)) / (1 + 0.5 + 0.25 + 0.125)
    assert HierarchicalContext()(target, source).item() == pytest.approx(expected.item(), rel=1e-5)
    one = HierarchicalContext()(target[..., :1, :1], source[..., :1, :1])
    assert one.item() == pytest.approx(d[..., :1, :1].square().mean().item(), rel=1e-5)


@pytest.mark.parametrize('masked, expected', [(False, 0), (True, 1)])
def test_all_ranks_sum_as_often_whatever_the_size_of_their_maps(masked, expected, monkeypatch):
    sums = []
    monkeypatch.setattr(mask_module, 'mean_over_ranks', lambda x: (sums.append(x.shape), x)[1])
    monkeypatch.setattr(hierarchical_context, 'get_world_size', lambda: 2)
    for height in (2, 3, 4, 5, 8):
        mask = torch.ones(2, 1, height, 5) if masked else None
        HierarchicalContext()(*sides((2, 3, height, 5)), mask=mask)
        assert len(sums) == expected and len(set(sums)) == expected
        sums.clear()


def test_hierarchical_context_leaves_out_what_does_not_count():
    target, source = sides((1, 2, 8, 8))
    mask = torch.ones(1, 1, 8, 8)
    mask[..., 4:] = 0
    d = (target - source).double()
    left = d[..., :4]
    expected = left.square().mean()
    for i, k in enumerate((4, 2, 1), 1):
        step = 8 // k
        rows = d.unflatten(2, (k, step)).mean(3)
        cells = [rows[..., a : min(a + step, 4)].mean(-1) for a in range(0, 4, step)]
        expected = expected + 0.5**i * torch.stack(cells).square().mean()
    found = HierarchicalContext()(target, source, mask=mask)
    assert found.item() == pytest.approx(expected.item() / 1.875, rel=1e-5)


def test_fit_nets_is_the_mean_squared_error():
    target, source = sides((2, 3, 4, 4))
    torch.testing.assert_close(FitNets()(target, source), (target - source).square().mean())


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: AttentionTransfer(power=0), 'power: expected a positive number, got 0'),
        (lambda: RelationalKD(angle_weight=-1), 'angle_weight: expected a number >= 0, got -1'),
        (lambda: DIST(tau=-1), 'tau: expected a number'),
        (lambda: DIST(mode='softmx'), "mode: .*did you mean 'softmax'"),
        (lambda: DIST(intra_weight='x'), 'intra_weight: expected a number'),
        (lambda: HierarchicalContext(sizes=4), 'sizes: expected a list of sizes, got 4'),
        (lambda: HierarchicalContext(sizes=[4, 0]), 'sizes: expected an integer >= 1, got 0'),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize('loss', [SimilarityPreserving(), RelationalKD()])
def test_other_numbers_of_images_are_refused(loss):
    with pytest.raises(ValueError, match='images differ: target 2, source 3'):
        loss(torch.zeros(2, 3), torch.zeros(3, 3))


@pytest.mark.parametrize('loss', [AttentionTransfer(), NeuronSelectivity(), HierarchicalContext()])
def test_vectors_are_refused(loss):
    with pytest.raises(ValueError, match='maps .* are compared'):
        loss(torch.zeros(2, 3), torch.zeros(2, 3))
