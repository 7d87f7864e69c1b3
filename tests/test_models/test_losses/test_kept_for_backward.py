"""What prediction losses keep for the backward pass, as maps of the predictions' size."""

import pytest
import torch
from loss_cases import dense

from mmkd.models.losses import DenseDetectionLoss, KLDivergence, PseudoLabel
from mmkd.models.utils.logits import bernoulli_kl

SHAPE = 2, 19, 16, 16


def maps_kept(compute, tensors):
    """Bytes saved for the backward pass, against those of `tensors`, which live anyway."""
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = compute()  # kept alive: its memory is not given to another
    loss.backward()
    return sum(kept.values()) / tensors[0].untyped_storage().nbytes()


def sides(shape):
    generator = torch.Generator().manual_seed(0)
    target, source = (torch.randn(shape, generator=generator) for _ in range(2))
    return (target.requires_grad_() * 1.0, source)


@pytest.mark.parametrize(
    ('loss', 'shape', 'most'),
    [
        (KLDivergence(), SHAPE, 2.0),  # the target's log-probabilities, the source's probabilities
        (KLDivergence(), (2, 1, 64, 64), 0.0),
        (KLDivergence(tau=4.0), (2, 1, 64, 64), 2.0),  # both over tau
        (PseudoLabel(mode='soft'), SHAPE, 2.1),
        (PseudoLabel(mode='soft'), (2, 1, 64, 64), 1.0),  # the mask
    ],
)
def test_maps(loss, shape, most):
    target, source = sides(shape)
    assert maps_kept(lambda: loss(target, source), [target, source]) <= most + 0.01


def test_a_second_link_from_a_source_keeps_its_own_side_alone():
    (one, source), (other, _) = sides(SHAPE), sides(SHAPE)
    loss = KLDivergence()
    both = maps_kept(lambda: loss(one, source) + loss(other, source), [one, other, source])
    assert both <= 3.01


def test_dense_detection():
    """Class maps of 80 channels: some values a position are kept, none a class."""
    target, source = dense(2, 500, 80), dense(2, 500, 80, seed=1)
    target.cls_logits = target.cls_logits.requires_grad_() * 1.0
    alive = [target.cls_logits, source.cls_logits, source.scores]
    assert maps_kept(lambda: DenseDetectionLoss()(target, source), alive) < 0.5


@pytest.mark.parametrize('scale', [0.1, 3.0])
def test_gradients_of_both_sides(scale):
    """The second derivative, too: an autograd function of its own could have none."""
    generator = torch.Generator().manual_seed(0)
    logits = [
        (torch.randn(20, generator=generator, dtype=torch.float64) * scale).requires_grad_()
        for _ in range(2)
    ]
    assert torch.autograd.gradcheck(bernoulli_kl, logits)
    assert torch.autograd.gradgradcheck(bernoulli_kl, logits)


def test_gradients_of_large_logits_in_float32():
    """Probabilities near 1 differ by less than float32 tells near 1."""
    logits = [(20.0, 18.0), (12.0, 11.9), (18.0, 30.0), (-20.0, -18.0), (0.5, -0.5)]
    for t, s in logits:
        target = torch.tensor(t, requires_grad=True)
        bernoulli_kl(target, torch.tensor(s)).backward()
        one, other = (torch.tensor(x, dtype=torch.float64).sigmoid() for x in (t, s))
        assert target.grad.item() == pytest.approx((one - other).item(), rel=1e-5)


def test_gradients_of_extreme_logits():
    extreme = torch.tensor([-1e30, -200.0, 0.0, 200.0, 1e30])
    target, source = (x.clone().requires_grad_() for x in torch.cartesian_prod(extreme, extreme).T)
    bernoulli_kl(target, source).clamp(max=1e6).sum().backward()
    assert torch.isfinite(target.grad).all() and torch.isfinite(source.grad).all()
