"""KDCL's combiners, attention and gate."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmkd.models.combiners import Attention, Gate, LowestLoss, MeanProbability, MinLogit
from mmkd.registry import MODELS

SHAPES = [(6, 3), (2, 3, 4, 4)]


def sources(shape, n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(shape, generator=generator) for _ in range(n)]


def samples(shape, ignore=False):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, max(2, shape[1]), (shape[0], 1, *shape[2:]), generator=generator)
    if len(shape) == 2:
        return [DataSample().set_gt_label(label) for label in labels], labels[:, 0]
    if ignore:
        labels[0, 0, 1] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels], labels[:, 0]


@pytest.mark.parametrize('shape', SHAPES)
def test_min_logit(shape):
    values = sources(shape)
    data, labels = samples(shape)
    combined = MinLogit()(values, values[0], data)
    stacked = torch.stack(values).movedim(2, -1).flatten(1, -2).numpy()
    expected = [
        np.min([z[i] - z[i, label] for z in stacked], axis=0)
        for i, label in enumerate(labels.flatten().tolist())
    ]
    np.testing.assert_allclose(combined.movedim(1, -1).flatten(0, -2), expected, rtol=1e-5)
    one_hot = F.cross_entropy(combined, labels)  # at least as good as the best source
    assert one_hot <= min(F.cross_entropy(z, labels) for z in values)


@pytest.mark.parametrize('shape', SHAPES)
def test_lowest_loss(shape):
    values = sources(shape)
    data, labels = samples(shape)
    combined = LowestLoss()(values, values[0], data)
    losses = torch.stack([F.cross_entropy(z, labels, reduction='none') for z in values])
    torch.testing.assert_close(F.cross_entropy(combined, labels, reduction='none'), losses.amin(0))


@pytest.mark.parametrize('combiner', [MinLogit(), LowestLoss()])
def test_one_logit_and_ignored_pixels(combiner):
    values = sources((2, 1, 4, 4))
    data, labels = samples((2, 1, 4, 4), ignore=True)
    combined = combiner(values, values[0], data)
    stacked = torch.stack(values)
    labels = labels.unsqueeze(1)
    expected = torch.where(labels == 1, stacked.amax(0), stacked.amin(0))
    expected = torch.where(labels == 255, stacked.mean(0), expected)
    torch.testing.assert_close(combined, expected)


@pytest.mark.parametrize('combiner', [MinLogit(), LowestLoss(), Gate(3)])
def test_labels_are_needed_in_training(combiner):
    values = sources((2, 3))
    with pytest.raises(ValueError, match="no labels in this batch: the link needs on='labeled'"):
        combiner(values, values[0], None)
    with torch.no_grad():
        combiner(values, values[0], None)  # the build's probe


@pytest.mark.parametrize('shape', [*SHAPES, (2, 1, 4, 4)])
@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_attention_by_hand(shape, tau):
    values, target = sources(shape), sources(shape, 1, seed=5)[0]
    combiner = MODELS.build(
        dict(type='mmkd.Attention', in_channels=shape[1], out_channels=shape[1], tau=tau)
    )
    combined = combiner(values, target)
    pooled = [x.flatten(2).mean(2) if x.dim() > 2 else x for x in (target, *values)]
    scores = torch.stack(
        [(combiner.of_target(pooled[0]) * combiner.of_source(z)).sum(1) for z in pooled[1:]]
    )
    alpha = scores.softmax(0)
    form = torch.sigmoid if shape[1] == 1 else (lambda x: x.softmax(1))
    expected = sum(
        a.view(-1, *[1] * (len(shape) - 1)) * form(z / tau) for a, z in zip(alpha, values)
    )
    torch.testing.assert_close(form(combined / tau), expected)


def test_equal_attention_is_the_mean_and_the_projections_learn():
    values, target = sources((6, 3)), sources((6, 3), 1, seed=5)[0].requires_grad_()
    combiner = Attention(3, 3)
    F.kl_div(
        target.log_softmax(1), combiner(values, target).log_softmax(1), log_target=True
    ).backward()
    assert all(p.grad.any() for p in (combiner.of_target.weight, combiner.of_source.weight))
    for parameter in combiner.of_source.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(
        combiner(values, target).softmax(1), MeanProbability()(values, target).softmax(1)
    )


@pytest.mark.parametrize('shape', [*SHAPES, (2, 1, 4, 4)])
def test_gate_by_hand(shape):
    values = sources(shape)
    data, labels = samples(shape, ignore=len(shape) == 4)
    gate = MODELS.build(dict(type='mmkd.Gate', out_channels=shape[1]))
    combined, terms = gate(values, values[0], data)
    weights = torch.stack(
        [gate.score(z.flatten(2).mean(2) if z.dim() > 2 else z)[:, 0] for z in values]
    ).softmax(0)
    expected = sum(w.view(-1, *[1] * (len(shape) - 1)) * z for w, z in zip(weights, values))
    torch.testing.assert_close(combined, expected.detach())
    valid = labels != 255
    if shape[1] == 1:
        loss = F.binary_cross_entropy_with_logits(expected[:, 0][valid], labels[valid].float())
    else:
        loss = F.cross_entropy(expected, labels, ignore_index=255)
    torch.testing.assert_close(terms['gate'], loss)
    assert not combined.requires_grad


def test_the_gate_learns_which_source_is_right():
    torch.manual_seed(0)
    data, labels = samples((32, 3))
    right = 4 * F.one_hot(labels, 3).float()
    values = [right.roll(1, 1) / 4, right]  # the confident one is right
    gate = Gate(3)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.02)
    for _ in range(60):
        combined, terms = gate(values, values[0], data)
        optimizer.zero_grad()
        terms['gate'].backward()
        optimizer.step()
    assert (combined.argmax(1) == labels).all() and terms['gate'] < 0.2


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: Attention(3, 3, embedding=0), 'embedding: expected an integer >= 1, got 0'),
        (lambda: Attention(3, 3, tau=0), 'tau: expected a positive number'),
        (lambda: Gate(3, hidden=0), 'hidden: expected an integer >= 1, got 0'),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
