"""Values of DKD and PseudoLabel against independent computations in float64."""

import math

import numpy as np
import pytest
import torch
from loss_cases import samples
from scipy import special

from mmkd.models.losses import DKD, KLDivergence, PseudoLabel
from mmkd.registry import MODELS


def logits(shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * scale for _ in range(2)]


def rows(x):
    """Positions by classes, in float64."""
    return x.movedim(1, -1).flatten(0, -2).double().numpy()


def entropy(source, target):
    return special.rel_entr(source, target).sum()


def dkd(target, source, labels, alpha, beta, tau):
    values = []
    for t, s, label in zip(rows(target) / tau, rows(source) / tau, labels):
        if label < 0:
            continue
        p_t, p_s = special.softmax(t), special.softmax(s)
        value = alpha * entropy(
            np.array([p_s[label], 1 - p_s[label]]), np.array([p_t[label], 1 - p_t[label]])
        )
        others = [k for k in range(len(t)) if k != label]
        if len(others) > 1:
            value += beta * entropy(special.softmax(s[others]), special.softmax(t[others]))
        values.append(value)
    return tau**2 * np.mean(values)


@pytest.mark.parametrize('shape', [(5, 4), (5, 2), (2, 3, 4, 4), (2, 2, 4, 4)])
@pytest.mark.parametrize('options', [dict(), dict(alpha=0.5, beta=2.0, tau=1.0)])
def test_dkd(shape, options):
    target, source = logits(shape)
    data = samples(shape[0], shape[1], shape[2:])
    if len(shape) == 4:
        data[0].gt_sem_seg.data[0, :2] = 255  # ignored
        labels = torch.cat([s.gt_sem_seg.data for s in data]).flatten().tolist()
        labels = [-1 if label == 255 else label for label in labels]
    else:
        labels = [s.gt_label.item() for s in data]
    value = MODELS.build(dict(type='mmkd.DKD', **options))(target, source, data)
    expected = dkd(target, source, labels, **dict(dict(alpha=1, beta=8, tau=4), **options))
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_dkd_of_one_logit_is_the_binary_divergence():
    target, source = logits((2, 1, 4, 4))
    value = DKD(tau=2.0)(target, source, samples(2, 1, (4, 4)))
    torch.testing.assert_close(value, KLDivergence(tau=2.0, mode='sigmoid')(target, source))


def test_dkd_with_the_plain_weights_is_the_divergence():
    """KL = KL(b) + (1 - p_s) KL(q): a batch of one image and beta = 1 - p_s."""
    target, source = logits((1, 5))
    data = samples(1, 5)
    p = source.softmax(1)[0, data[0].gt_label].item()
    value = DKD(alpha=1, beta=1 - p, tau=1)(target, source, data)
    torch.testing.assert_close(value, KLDivergence()(target, source))


def test_labels_larger_than_the_logits_and_mixed_labels():
    target, source = logits((2, 3, 4, 4))
    data = samples(2, 3, (4, 4))
    value = DKD()(target, source, data)
    for sample in data:
        large = sample.gt_sem_seg.data.repeat_interleave(2, 1).repeat_interleave(2, 2)
        sample.gt_sem_seg = type(sample.gt_sem_seg)(data=large)
    torch.testing.assert_close(DKD()(target, source, data), value)
    target, source = logits((2, 3))
    data = samples(2, 3)
    value = DKD()(target, source, data)
    for sample in data:
        score = torch.full((3,), 0.2)
        score[sample.gt_label] = 0.6
        sample.set_gt_score(score).set_gt_label(torch.tensor(0))
    torch.testing.assert_close(DKD()(target, source, data), value)


def test_what_has_no_label_is_refused():
    target, source = logits((2, 3))
    with pytest.raises(ValueError, match="no labels in this batch: the link needs on='labeled'"):
        DKD()(target, source, None)
    with torch.no_grad():
        assert DKD()(target, source, None).isfinite()  # the build's probe
    several = samples(2, 3)
    several[0].set_gt_label([0, 2])
    with pytest.raises(ValueError, match=r'one label per image is needed, got \[0, 2\]'):
        DKD()(target, source, several)
    several[0].set_gt_score(torch.tensor([1.0, 0.0, 1.0]))  # as `to_onehot=True` adds
    with pytest.raises(ValueError, match=r'one label per image is needed, got \[0, 2\]'):
        DKD()(target, source, several)
    with pytest.raises(ValueError, match='labels of shape .* do not belong to logits of shape'):
        DKD()(*logits((2, 3, 4, 4)), samples(2, 3))
    from mmdet.structures import DetDataSample

    with pytest.raises(ValueError, match='DetDataSample has neither gt_sem_seg nor gt_label'):
        DKD()(target, source, [DetDataSample(), DetDataSample()])


def pseudo(target, source, mode, threshold, normalize, tau, sigmoid):
    """Sum over positions (and classes, with sigmoid) and what it is divided by."""
    total = counted = 0.0
    for t, s in zip(rows(target), rows(source)):
        if sigmoid:
            pairs = [([a, 0.0], [b, 0.0]) for a, b in zip(t, s)]
        else:
            pairs = [(t, s)]
        for a, b in pairs:
            p, q = special.softmax(a), special.softmax(b)
            confident = q.max() >= threshold
            if mode == 'hard':
                q = np.eye(len(q))[q.argmax()]
            elif mode == 'sharp':
                q = special.softmax(np.array(b) / tau)
            total += confident * entropy(q, p)
            counted += (confident if normalize == 'confident' else 1) / len(pairs)
    return total / counted


@pytest.mark.parametrize('shape', [(5, 4), (2, 3, 4, 4), (5, 1), (2, 1, 4, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize('mode', ['hard', 'soft', 'sharp'])
@pytest.mark.parametrize('threshold, normalize', [(0, 'all'), (0.8, 'all'), (0.8, 'confident')])
def test_pseudo_labels(shape, mode, threshold, normalize):
    target, source = logits(shape)
    target.requires_grad_(), source.requires_grad_()
    sigmoid = shape[1] == 1 or shape[-1] == 2
    loss = PseudoLabel(
        mode, threshold, normalize, tau=0.4, activation='sigmoid' if sigmoid else 'auto'
    )
    value = loss(target, source)
    value.backward()
    expected = pseudo(target.detach(), source.detach(), mode, threshold, normalize, 0.4, sigmoid)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert target.grad.any() and source.grad is None


def test_the_gates_positions_have_no_gradient():
    target = torch.zeros(2, 3, requires_grad=True)
    source = torch.tensor([[1.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    value = PseudoLabel(threshold=0.95)(target, source)
    value.backward()
    assert value.item() == pytest.approx(math.log(3) / 2)
    assert not target.grad[0].any() and target.grad[1].all()
    alone = PseudoLabel(threshold=0.95, normalize='confident')(target, source)
    assert alone.item() == pytest.approx(math.log(3))
    nobody = PseudoLabel(threshold=0.999999, normalize='confident')(target, source[:1].expand(2, 3))
    assert nobody.item() == 0


@pytest.mark.parametrize('channels', [1, 3])
def test_soft_labels_of_the_same_view_are_plain_mutual_learning(channels):
    target, source = logits((2, channels, 4, 4))
    torch.testing.assert_close(PseudoLabel('soft')(target, source), KLDivergence()(target, source))


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('mode', ['hard', 'soft'])
def test_dice(channels, mode):
    target, source = logits((2, channels, 4, 4))
    mask = torch.ones(2, 1, 4, 4)
    mask[0, :, 1] = 0
    value = PseudoLabel(mode, dice_weight=1.0)(target, source, mask)
    value = value - PseudoLabel(mode)(target, source, mask)
    valid = mask.flatten().bool().numpy()
    p, q = rows(target)[valid], rows(source)[valid]
    if channels == 1:
        p, q = special.expit(p), special.expit(q)
        q = np.round(q) if mode == 'hard' else q
    else:
        p, q = special.softmax(p, 1), special.softmax(q, 1)
        q = np.eye(channels)[q.argmax(1)] if mode == 'hard' else q
    dice = 2 * (p * q).sum(0) / ((p**2).sum(0) + (q**2).sum(0))
    assert value.item() == pytest.approx(np.mean(1 - dice), rel=1e-4)


def test_the_sources_map_is_brought_to_the_targets_size():
    target, source = logits((2, 3, 4, 4))
    large = source.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(PseudoLabel()(target, large), PseudoLabel()(target, source))


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(mode='sharpened'), "mode: unknown name 'sharpened'; did you mean 'sharp'"),
        (dict(threshold=1), r'threshold: expected a number in \[0, 1\), got 1'),
        (dict(threshold=-0.1), 'threshold: expected a number'),
        (dict(normalize='confidnt'), "normalize: .*did you mean 'confident'"),
        (dict(tau=0), 'tau: expected a positive number'),
        (dict(dice_weight=-1), 'dice_weight: expected a number >= 0'),
        (dict(activation='soft'), "activation: unknown name 'soft'; did you mean 'softmax'"),
    ],
)
def test_wrong_pseudo_label_arguments(cfg, message):
    with pytest.raises(ValueError, match=message):
        PseudoLabel(**cfg)


def test_what_has_no_pseudo_label():
    with pytest.raises(ValueError, match=r'dice_weight: Dice is for maps .*, got \(2, 3\)'):
        PseudoLabel(dice_weight=1.0)(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="one class: .* use activation='sigmoid'"):
        PseudoLabel(activation='softmax')(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match='logits differ in shape'):
        PseudoLabel()(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(alpha=-1), 'alpha: expected a number >= 0, got -1'),
        (dict(beta='x'), "beta: expected a number >= 0, got 'x'"),
        (dict(tau=0.0), 'tau: expected a positive number, got 0'),
    ],
)
def test_wrong_dkd_arguments(cfg, message):
    with pytest.raises(ValueError, match=message):
        DKD(**cfg)
