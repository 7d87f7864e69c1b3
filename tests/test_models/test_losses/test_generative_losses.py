"""MGD, AFD and FGD, which have networks of their own."""

import numpy as np
import pytest
import torch
from loss_cases import box_samples
from mmengine.structures import InstanceData

from mmkd.models.losses import (
    AdversarialFeature,
    FocalGlobal,
    MaskedGenerative,
    masked_generative,
)
from mmkd.models.utils import mask as mask_module
from mmkd.registry import MODELS


def sides(shape=(2, 4, 8, 8)):
    return 2 * torch.randn(shape), torch.randn(shape) + 0.3


def test_a_generator_that_gives_nothing_has_loss_one_whatever_the_scale():
    loss = MaskedGenerative(out_channels=4)
    for parameter in loss.generator[2].parameters():
        torch.nn.init.zeros_(parameter)
    target, source = sides()
    for scale in (1, 100):
        assert loss(target, scale * source).item() == pytest.approx(1, rel=1e-5)


def test_masked_generation_by_hand():
    loss = MODELS.build(dict(type='mmkd.MaskedGenerative', out_channels=2)).eval()
    target, source = sides((1, 2, 3, 3))
    expected = (loss.generator(target) - source).square().mean() / source.square().mean()
    torch.testing.assert_close(loss(target, source), expected)


def test_two_ranks_have_the_joint_batchs_masked_generation(monkeypatch):
    """The mean of the ranks' losses, also where one has hardly a position that counts."""
    loss = MaskedGenerative(out_channels=4).eval()
    target, source = sides((2, 4, 3, 3))
    mask = torch.ones(2, 1, 3, 3)
    mask[1, :, 1:] = 0
    expected = loss(target, source, mask=mask)
    count = mask.sum() / 2
    square = (mask[:, 0] * source.square().mean(1)).sum() / 2 / count
    monkeypatch.setattr(mask_module, 'mean_over_ranks', lambda x: count)
    monkeypatch.setattr(masked_generative, 'mean_over_ranks', lambda x: square)
    ranks = [loss(target[i, None], source[i, None], mask=mask[i, None]) for i in (0, 1)]
    torch.testing.assert_close(sum(ranks) / 2, expected)


def test_hidden_positions_reach_neither_value_nor_gradient():
    loss = MaskedGenerative(out_channels=4, ratio=0.5).train()
    target, source = sides((4, 4, 16, 16))
    target.requires_grad_()
    loss(target, source).backward()
    visible = target.grad.ne(0).any(1).float().mean().item()
    assert 0.4 < visible < 0.6 and all(p.grad is not None for p in loss.parameters())
    torch.manual_seed(5)
    one = loss(target, source)
    assert loss(target, source) != one  # drawn anew
    torch.manual_seed(5)
    assert loss(target, source) == one
    loss.eval()
    assert loss(target, source) == loss(target, source)


def test_each_part_of_the_adversarial_loss_teaches_its_side_alone():
    loss = AdversarialFeature(out_channels=4, channels=8)
    target, source = (x.requires_grad_() for x in sides())
    discriminator = loss.discriminator
    value = loss(target, source)
    scores = discriminator(target), discriminator(source)
    fool, tell = (1 - scores[0]).square().mean(), (1 - scores[1]).square() + scores[0].square()
    torch.testing.assert_close(value, fool + tell.mean())
    value.backward()
    assert source.grad is None
    expected = torch.autograd.grad(fool, target, retain_graph=True)[0]
    torch.testing.assert_close(target.grad, expected)
    for p, gradient in zip(
        discriminator.parameters(),
        torch.autograd.grad(tell.mean(), list(discriminator.parameters())),
    ):
        torch.testing.assert_close(p.grad, gradient)


def test_a_fooled_discriminator_ends_at_the_sources_distribution():
    torch.manual_seed(0)
    loss = AdversarialFeature(out_channels=2, channels=8)
    shift = torch.nn.Parameter(torch.tensor([2.0, -2.0]).view(1, 2, 1, 1))
    optimizer = torch.optim.Adam([*loss.parameters(), shift], lr=0.02)
    for _ in range(150):
        source, noise = torch.randn(8, 2, 4, 4), torch.randn(8, 2, 4, 4)  # no pairs
        value = loss(noise + shift, source)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert shift.abs().max() < 1


def test_the_generator_learns():
    torch.manual_seed(0)
    loss = MaskedGenerative(out_channels=4, ratio=0.3)
    source = torch.nn.functional.interpolate(torch.randn(4, 4, 2, 2), size=8, mode='bilinear')
    target = source[:, [1, 0, 3, 2]]
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    for _ in range(60):
        value = loss(target, source)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value < 0.5


def attention(x, tau):
    size = np.abs(x)
    spatial = np.exp(size.mean(0) / tau)
    channel = np.exp(size.mean((1, 2)) / tau)
    return spatial / spatial.sum() * spatial.size, channel / channel.sum() * channel.size


def reference(target, source, samples, weights, tau=0.5):
    """The loss in float64 image by image; the context blocks still give nothing."""
    target, source = target.double().numpy(), source.double().numpy()
    scale = np.mean(source**2)
    fore, back, fore_mass, back_mass, attentive = 0.0, 0.0, 0.0, 0.0, []
    for t, s, sample in zip(target, source, samples):
        (a_t, c_t), (a_s, c_s) = attention(t, tau), attention(s, tau)
        mask = np.zeros(t.shape[1:])
        for box in sample.gt_instances.bboxes.numpy() / 4:  # 32 pixels on 8 cells
            x, y, right, bottom = (
                *np.floor(box[:2]).astype(int),
                *np.minimum(np.ceil(box[2:]), 8).astype(int),
            )
            region = mask[y:bottom, x:right]
            region[:] = np.maximum(region, 1 / region.size)
        distance = (((t - s) ** 2) * c_s[:, None, None]).mean(0) * a_s / scale
        fore, fore_mass = fore + (distance * mask).sum(), fore_mass + mask.sum()
        back, back_mass = back + distance[mask == 0].mean(), back_mass + 1
        attentive.append(np.abs(a_t - a_s).mean() + np.abs(c_t - c_s).mean())
    context = np.mean((target - source) ** 2) / scale
    terms = fore / fore_mass, back / back_mass, np.mean(attentive), context
    return sum(weight * term for weight, term in zip(weights, terms))


@pytest.mark.parametrize('weights', [(1, 0.5, 1, 1), (2, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)])
def test_focal_and_global(weights):
    names = ('foreground_weight', 'background_weight', 'attention_weight', 'global_weight')
    loss = FocalGlobal(out_channels=4, **dict(zip(names, weights)))
    target, source = sides()
    data = box_samples(2)
    value = loss(target, source, data)
    assert value.item() == pytest.approx(reference(target, source, data, weights), rel=1e-4)


def test_both_contexts_learn():
    loss = FocalGlobal(out_channels=4)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    target, source = sides()
    before = {name: p.clone() for name, p in loss.named_parameters()}
    for _ in range(2):  # the last layers start at 0: the others learn from the second step on
        loss(target, source, box_samples(2)).backward()
        optimizer.step()
    # The softmax over positions ignores the pools' biases.
    still = {name for name, p in loss.named_parameters() if torch.equal(p, before[name])}
    assert still <= {'target_context.pool.bias', 'source_context.pool.bias'}


def test_boxes_beyond_the_image_and_images_without_boxes():
    loss = FocalGlobal(out_channels=4)
    target, source = sides()
    data = box_samples(2)
    boxes = torch.tensor([[-9.0, -9, 99, 99], [31.9, 31.9, 40, 40]])
    data[0].gt_instances = InstanceData(bboxes=boxes)
    data[1].gt_instances = InstanceData(bboxes=torch.zeros(0, 4))
    assert loss(target, source, data).isfinite()
    with torch.no_grad():
        assert loss(target, source, None).isfinite()  # the build's probe


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: MaskedGenerative(4, ratio=1), r'ratio: expected a number in \[0, 1\), got 1'),
        (lambda: MaskedGenerative(0), 'out_channels: expected an integer >= 1, got 0'),
        (lambda: FocalGlobal(4, tau=0), 'tau: expected a positive number, got 0'),
        (lambda: FocalGlobal(4, global_weight=-1), 'global_weight: expected a number >= 0'),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_has_no_boxes_is_refused():
    loss, (target, source) = FocalGlobal(4), sides()
    with pytest.raises(ValueError, match="no boxes in this batch: the link needs on='labeled'"):
        loss(target, source, None)
    data = box_samples(2)
    del data[1].gt_instances
    with pytest.raises(ValueError, match='has no gt_instances or no batch_input_shape'):
        loss(target, source, data)
